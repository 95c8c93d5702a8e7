"""Who may ask, and what every answer carries: token, origin, headers, a problem for what went wrong, a count.

ASGI middleware. Knows nothing of routes but for which need a token. Always holds: tokens are compared in constant time
and never logged; without a token only this machine's own names are served, so that no page elsewhere can reach a
service on loopback through a name of its own.
"""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sake_ray.pages.service_files import SECURITY_HEADERS
from sake_ray.serving.problems import MEDIA_TYPE, Problem

logger = logging.getLogger(__name__)

_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_GUARDED = ("/v1/", "/metrics")
_OPEN = frozenset({"/v1/policies"})
Count = Callable[[str, int, float], None]
"""Told route, status and seconds of each request."""


class Guard:
    """Wraps an app. `token` empty: none is asked for, and only requests to this machine's own names are served."""

    def __init__(self, app: ASGIApp, token: str, count: Count) -> None:
        self._app = app
        self._token = token.encode()
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 499  # the client left before there was an answer

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, sending)
        except Problem as problem:
            await send_problem(problem, sending)
        finally:
            self._count(_route(scope["path"]), status, time.monotonic() - began)

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if not self._token and _name(host) not in _OWN_NAMES:
            raise Problem("forbidden", "this service answers to localhost alone; give it a token to open it")
        # "null" is what sandboxed frames of any page send; the service's own page is never in one.
        if "origin" in headers and _place(headers["origin"]) != host:
            raise Problem("forbidden", "pages of other origins may not ask this service")
        path = scope["path"]
        if not self._token or not path.startswith(_GUARDED) or path in _OPEN:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self._token):
            raise Problem("unauthorized", "send Authorization: Bearer TOKEN")


async def send_problem(problem: Problem, send: Callable[[Message], Awaitable[None]]) -> None:
    """Answer with a problem."""
    body = json.dumps(problem.shown()).encode()
    told = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body)), **problem.headers}
    headers = [(name.lower().encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _place(origin: str) -> str | None:
    """Host and port of an Origin header; None where it names none."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _route(path: str) -> str:
    """A path as a label: of few values, whatever is asked."""
    known = ("/v1/extract", "/v1/extract/batch", "/v1/policies", "/v1/examples", "/health", "/ready", "/metrics", "/")
    if path in known:
        return path
    return next((f"{start}…" for start in ("/v1/examples/", "/assets/") if path.startswith(start)), "other")
