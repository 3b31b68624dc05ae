"""The errors that cross layers, each with the HTTP status it is answered with.

A text names the object, the cause and, where a user caused it, what to do.  It is shown
to whoever typed the docker command, after dockerd's "remote: ".
"""


class SlimError(Exception):
    """Base of all errors that slim raises on purpose."""

    # dockerd reads a driver's error text from a 200 answer's Err/Error field, and shows
    # the raw body of anything else: only malformed requests are worth another status.
    http_status = 200


class InvalidRequest(SlimError):
    """The request cannot be understood: empty, not JSON, or a field is of the wrong shape."""

    http_status = 400


class InvalidArgument(SlimError):
    """A well-formed request asks for something that makes no sense (user's mistake)."""


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
    """The state folder cannot be read or written: what a host notes of its own would be lost."""


class LinkError(SlimError):
    """The kernel refused a network interface, address, route or rule."""


class DatapathError(SlimError):
    """The kernel refused an eBPF program, map or attachment."""


class SettingsError(SlimError):
    """A setting has a value that cannot be used; the text names it and where it came from."""
