"""Answers every call of dockerd's with one reason why this driver does nothing.

Only Plugin.Activate gets a real answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flask import Flask, Response

from driver.api import codec
from driver.api.messages import ACTIVATED

log = logging.getLogger("slim.api")


def create_refusing_app(reason: str) -> Flask:
    """Build the WSGI application; only dockerd's question about the protocols gets an answer."""
    app = Flask("slim", static_folder=None)
    app.add_url_rule("/<path:name>", "refuse", _refuse(reason), methods=["POST"],
                     provide_automatic_options=False)
    app.add_url_rule("/Plugin.Activate", "activate", lambda: Response(
        codec.encode(ACTIVATED),
        content_type="application/json"), methods=["POST"], provide_automatic_options=False)
    return app


def _refuse(reason: str) -> Callable[[str], Response]:
    def view(name: str) -> Response:
        log.warning("%s refused: %s", name[:80], reason)
        return Response(codec.encode_error(reason), 400, content_type="application/json")

    return view
