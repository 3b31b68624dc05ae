"""Serves HTTP: routes calls, sets statuses, logs one line per request, and never answers empty.

The only client of the unix socket is dockerd, so there is no authentication here: the socket's mode
is the access right.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from driver.api import codec, control
from driver.api.control import Control
from driver.api.ipam_driver import IpamDriver
from driver.api.messages import ACTIVATED
from driver.api.network_driver import NetworkDriver
from driver.api.table import Call, without_request
from driver.errors import SlimError
from driver.work import deadline
from driver.work.tally import Tally

log = logging.getLogger("slim.api")

BODY_MAX_BYTES = 1 << 20  # requests take a few hundred bytes, plus some per published port
CALL_S = 4.5  # a call is answered within 5 s, even if etcd is down
# If etcd answers but others win every change; dockerd gives a plugin 30 s.
CONTENDED_S = 20.0
_LOGGED = ("NetworkID", "EndpointID", "PoolID", "Pool", "Address")
ERROR_MAX = 1000  # characters: an error may quote its request, which may be anything
OK, INTERNAL = "ok", "internal"  # results of a call, beside the classes of errors
_ID_SHOWN = 12  # characters, as the docker command shows ids


def create_app(network_driver: NetworkDriver, ipam_driver: IpamDriver,
               local: Control | None = None,
               clock: Callable[[], float] = time.monotonic, tally: Tally | None = None) -> Flask:
    """Build the WSGI application that answers all of dockerd's calls.  `clock` in seconds.

    tally: is told of each call of Docker's, by method and result.
    """
    app = Flask("slim", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY_MAX_BYTES
    calls: dict[str, Call] = {
        "Plugin.Activate": without_request(lambda: ACTIVATED),
        **network_driver.calls(), **ipam_driver.calls(),
        **(local.calls() if local else {})}
    for name, call in calls.items():
        app.add_url_rule(f"/{name}", endpoint=name, view_func=_view(
            name, call, clock, None if name.startswith(control.PREFIX) else tally),
                         methods=["POST"], provide_automatic_options=False)
    app.register_error_handler(HTTPException, _refuse)
    return app


def _view(name: str, call: Call, clock: Callable[[], float], tally: Tally | None
          ) -> Callable[[], Response]:
    def view() -> Response:
        start = clock()
        body = request.get_data(cache=False)
        status, answer, kind, text = _answer(name, call, body)
        took_s = clock() - start
        if tally is not None:
            tally.add(took_s, name, kind)
        result = text if kind == INTERNAL else f"{kind}: {text}" if text else kind
        log.log(_level(name, result), "%s%s %.1f ms %s", name, _subject(body), took_s * 1000,
                result)
        return Response(answer, status, content_type="application/json")

    return view


def _level(name: str, result: str) -> int:
    if result != OK:
        return logging.WARNING
    return logging.DEBUG if name.startswith(control.PREFIX) else logging.INFO


def _answer(name: str, call: Call, body: bytes) -> tuple[int, bytes, str, str]:
    """Return the HTTP status, the body, "ok" or the error's class, and the error's text."""
    try:
        with deadline.limit(CALL_S, at_most_s=CONTENDED_S):
            return 200, codec.encode(call(body)), OK, ""
    except SlimError as error:
        text = _brief(str(error)) or type(error).__name__
        return error.http_status, codec.encode_error(text), type(error).__name__, text
    except Exception as error:
        # The only place that both logs and answers: the user gets the gist, the log the trace.
        log.exception("%s: unexpected error", name)
        text = _brief(f"slim: internal error in {name}: {type(error).__name__}: {error}")
        return 200, codec.encode_error(text), INTERNAL, text


def _brief(text: str) -> str:
    return text if len(text) <= ERROR_MAX else text[:ERROR_MAX - 3] + "..."


def _refuse(error: HTTPException) -> Response:
    """Refuse what is none of our calls: unknown URL (404), not POST (405), too large (413)."""
    text = f"slim: {request.method} {request.path[:80]}: {error.name}"
    log.warning("%s", text)
    response = Response(codec.encode_error(text), error.code or 500,
                        content_type="application/json")
    if error.code == 405:
        response.headers["Allow"] = "POST"
    return response


def _subject(body: bytes) -> str:
    """Return what the request is about, with ids shortened; empty if that cannot be told."""
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(members, dict):
        return ""
    words = []
    for name in _LOGGED:
        value = members.get(name)
        if isinstance(value, str) and value:
            shown = value[:_ID_SHOWN] if name in ("NetworkID", "EndpointID") else value[:80]
            # The body is foreign text: repr keeps line breaks and escapes out of the log.
            words.append(f" {name}={shown!r}" if not shown.isprintable() else f" {name}={shown}")
    return "".join(words)
