"""Answers every call of dockerd's with one reason why this driver does nothing.

What dockerd asks once and remembers as long as it lives gets its real answer, if that is known: a
driver whose capabilities were refused stays unknown to that dockerd, whenever it starts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flask import Flask, Response

from driver.api import codec
from driver.api.messages import (
    ACTIVATED,
    ADDRESS_SPACES,
    IPAM_CAPABILITIES,
    Answer,
    network_capabilities,
)

log = logging.getLogger("slim.api")


def create_refusing_app(reason: str, scope: str | None) -> Flask:
    """Build the WSGI application.

    scope: the one of settings.SCOPES that the driver will have.  None: it is not known, since the
    settings cannot be read; then nothing is remembered, since Plugin.Activate is refused, too.
    """
    app = Flask("slim", static_folder=None)
    app.add_url_rule("/<path:name>", "refuse", _refuse(reason), methods=["POST"],
                     provide_automatic_options=False)
    if scope is not None:
        for name, answer in (("Plugin.Activate", ACTIVATED),
                             ("NetworkDriver.GetCapabilities", network_capabilities(scope)),
                             ("IpamDriver.GetCapabilities", IPAM_CAPABILITIES),
                             ("IpamDriver.GetDefaultAddressSpaces", ADDRESS_SPACES)):
            app.add_url_rule(f"/{name}", name, _say(answer), methods=["POST"],
                             provide_automatic_options=False)
    return app


def _say(answer: Answer) -> Callable[[], Response]:
    return lambda: Response(codec.encode(answer), content_type="application/json")


def _refuse(reason: str) -> Callable[[str], Response]:
    def view(name: str) -> Response:
        log.warning("%s refused: %s", name[:80], reason)
        return Response(codec.encode_error(reason), 400, content_type="application/json")

    return view
