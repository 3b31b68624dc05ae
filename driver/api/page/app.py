"""Serves the page, its files and its events, each with what keeps a browser from other sites."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flask import Flask, Response, request, send_from_directory
from werkzeug.exceptions import HTTPException

from driver.api.page.feed import Feed, TooManyError
from driver.api.page.guard import Guard, is_meant

STATIC: Final = Path(__file__).parent / "static"
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
                               "connect-src 'self'; img-src 'self' data:; base-uri 'none'; "
                               "frame-ancestors 'none'; form-action 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY"}
UNKNOWN: Final = ("This page needs the token that `slim ui` printed: open the whole address that "
                   "it printed.\n")
NOT_MEANT: Final = ("Open this page by an IP address or as localhost: another name may belong to "
                    "a site that only pretends to be this host.\n")


def create_page(feed: Feed, guard: Guard) -> Flask:
    """Build the WSGI application."""
    app = Flask("slim-ui", static_folder=None)

    @app.before_request
    def refuse() -> Response | None:
        if not is_meant(request.headers.get("Host")):
            return _text(NOT_MEANT, 403)
        # The files are the same everywhere, and tell nothing of the cluster.
        if request.path.startswith("/static/"):
            return None
        shown = request.args.get("token") if request.path == "/" else None
        if guard.knows(shown or request.cookies.get(guard.cookie)):
            return None
        return _text(UNKNOWN, 403)

    @app.after_request
    def protect(response: Response) -> Response:
        response.headers.extend(HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    @app.get("/")
    def index() -> Response:
        response = send_from_directory(STATIC, "index.html")
        response.headers["Cache-Control"] = "no-store"
        # No redirect to an address without the token: a browser that comes by a link of another
        # site would not send the cookie there.  The page itself takes it out of the address.
        if guard.needs_token:
            response.set_cookie(guard.cookie, guard.token, httponly=True, samesite="Strict")
        return response

    @app.get("/static/<path:name>")
    def file(name: str) -> Response:
        response = send_from_directory(STATIC, name)
        response.headers["Cache-Control"] = "no-cache"  # kept, and asked for each time
        return response

    @app.get("/events")
    def events() -> Response:
        if request.method == "HEAD":  # its answer is never closed
            return Response(content_type="text/event-stream")
        try:
            following = feed.follow()
        except TooManyError as error:
            return _text(f"{error}\n", 503)
        return Response(following, content_type="text/event-stream")

    @app.errorhandler(HTTPException)
    def fail(error: HTTPException) -> Response:
        return _text(f"{error.code} {error.name}\n", error.code or 500)

    return app


def _text(text: str, status: int) -> Response:
    return Response(text, status, content_type="text/plain; charset=utf-8")
