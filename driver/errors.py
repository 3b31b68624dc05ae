"""Defines the errors that cross layers, each with the HTTP status of its answer.

An error's text names the object, the cause and, where a user caused it, what to do.  The person
who typed the docker command sees it after dockerd's "remote: ".
"""

# How a refusal of every call begins, in what dockerd notes of a container's start, too.
DOES_NOT_START = "slim does not start"


class SlimError(Exception):
    """Base of all errors that slim raises on purpose."""

    # dockerd reads a driver's error text from the Err/Error field of a 200 answer, and shows the
    # raw body of any other status: only malformed requests get another one.
    http_status = 200


class InvalidRequest(SlimError):
    """The request cannot be understood: it is empty, not JSON, or a field has the wrong shape."""

    http_status = 400


class InvalidArgument(SlimError):
    """A well-formed request asks for something that makes no sense (the user's mistake)."""


class NotFound(SlimError):
    """The named network, endpoint or pool does not exist."""


class Conflict(SlimError):
    """The object exists with other properties, or somebody else holds the resource."""


class Exhausted(SlimError):
    """A pool, the VXLAN ids or the endpoint ports of this host are used up."""


class StoreUnavailable(SlimError):
    """etcd did not answer in time; nothing is known to have changed."""


class EngineUnavailable(SlimError):
    """Docker's API cannot be asked, or its answer is not understood."""


class UnsupportedRecord(SlimError):
    """etcd holds a value of a wrong or newer schema: it is left alone."""


class StateError(SlimError):
    """The state folder cannot be read or written: this host's notes would be lost."""


class LinkError(SlimError):
    """The kernel refused a network interface, address, route or rule."""


class DatapathError(SlimError):
    """The kernel refused an eBPF program, map or attachment."""


class SettingsError(SlimError):
    """A setting has a value that cannot be used; the text names it and where it came from."""
