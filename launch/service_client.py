"""Asks a running service (launch/serve.py) about posts: one form a post, again where it says that it is busy.

Knows nothing of files of posts. Always holds: the token goes to the service alone, no redirect is followed; a request
is tried a bounded number of times, waits as long as it is told to (within bounds) and is given up some time after its
deadline; no more than `MAX_BYTES` of an answer are read; what is no answer of the service is refused.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TypeGuard
from urllib.parse import urlsplit

import aiohttp

from launch.post_files import Post
from launch.predicting import AskingEnded, Reply
from sake_ray.bounded_json import JsonRefused, parse_json
from sake_ray.serving.problems import Problem

log = logging.getLogger(__name__)
PATH = "/v1/extract"
TRIES = 8
GRACE_S = 30.0
"""Seconds beyond the deadline: for the picture's way there, and a service that is busy."""
MAX_WAIT_S = 30.0
MAX_BYTES = 32 * 2**20
_CONNECT_S = 10.0
_AGAIN = (429, 503)
_NOBODY = (401, 403, 404, 405)  # what one post is told, all would be


class ServiceClient:
    """An `Asker` over HTTP; enter it before it is used."""

    def __init__(
        self, url: str, *, token: str = "", options: Mapping[str, Any], deadline_s: float, tries: int = TRIES
    ) -> None:
        """`url` is the service's origin, `options` the request's (without a deadline).

        Raises:
            ValueError: `url` is no address of a service.
        """
        self._url = checked_url(url)
        self._options = json.dumps({**options, "deadline_s": deadline_s})
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._give_up_s = deadline_s + GRACE_S
        self._tries = tries
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ServiceClient:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=self._give_up_s, sock_connect=_CONNECT_S),
            connector=aiohttp.TCPConnector(limit=0),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def ask(self, post: Post) -> Reply:
        """See `Asker`."""
        try:
            picture = await asyncio.to_thread(post.picture.read_bytes)
        except OSError as error:
            return _problem(Problem("invalid", f"{post.picture}: {error.strerror}", "image"))
        for attempt in range(1, self._tries + 1):
            try:
                reply, wait_s = await self._once(post, picture)
            except TimeoutError:
                return _problem(Problem("deadline", f"{self._url} said nothing within {self._give_up_s:g} seconds"))
            except aiohttp.ClientConnectorError as error:
                why = os.strerror(error.errno) if error.errno and error.errno > 0 else "it cannot be reached"
                raise AskingEnded(
                    f"nothing answers at {self._url} ({why}); is the service running? python launch/serve.py starts one"
                ) from error
            except aiohttp.ClientError as error:  # cut off in the middle: a replica that went
                reply = _problem(Problem("unavailable", f"{self._url} broke off ({type(error).__name__})"))
                wait_s = None
            if reply.status in _NOBODY:
                raise AskingEnded(f"{self._url} refuses: {reply.said()}")
            if reply.status not in _AGAIN or attempt == self._tries:
                return reply
            pause = min(wait_s if wait_s is not None else 2.0 ** (attempt - 1), MAX_WAIT_S)
            log.info("%s: %s; again in %.1f s", post.id, reply.said(), pause)
            # A little apart, so that those who were told the same do not all come back at once.
            await asyncio.sleep(pause * random.uniform(1.0, 1.25))
        raise AssertionError("unreachable")

    async def _once(self, post: Post, picture: bytes) -> tuple[Reply, float | None]:
        """One request: what came of it, and after how many seconds to ask again."""
        assert self._session is not None
        form = aiohttp.FormData()
        form.add_field("text", post.text)
        form.add_field("options", self._options)
        form.add_field("image", picture, filename=f"picture{post.picture.suffix.lower()[:8]}")
        async with self._session.post(self._url + PATH, data=form, allow_redirects=False) as response:
            body = await self._body(response)
            return self._reply(response.status, body, response.content_type), _seconds(
                response.headers.get("Retry-After")
            )

    async def _body(self, response: aiohttp.ClientResponse) -> str:
        read = bytearray()
        async for piece in response.content.iter_any():
            read += piece
            if len(read) > MAX_BYTES:
                raise AskingEnded(f"{self._url} answers with more than {MAX_BYTES} bytes: that is not the service")
        return read.decode("utf-8", errors="replace")

    def _reply(self, status: int, body: str, kind: str) -> Reply:
        try:
            value = parse_json(body, max_chars=MAX_BYTES, max_depth=32, unique_keys=True)
        except JsonRefused:
            value = None
        if status == 200 and is_result(value):
            return Reply(200, value)
        if status >= 400 and isinstance(value, dict) and isinstance(value.get("detail", value.get("title")), str):
            return Reply(status, None, value)
        if status in _AGAIN or status >= 500:  # of something before the service
            return Reply(status, None, Problem("unavailable", f"{self._url} answers {status} ({kind})").shown())
        raise AskingEnded(f"{self._url}{PATH} answers {status} ({kind}) and no result: that is not the service")


def is_result(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a value has what is read of a result: text, picture, entities and turns."""
    if not isinstance(value, dict) or not isinstance(value.get("text"), str) or not isinstance(value.get("stop"), str):
        return False
    entities, turns = value.get("entities"), value.get("turns")
    if not isinstance(entities, list) or not isinstance(turns, list) or not isinstance(value.get("policy"), dict):
        return False
    for entity in entities:
        if not isinstance(entity, dict) or not all(isinstance(entity.get(key), str) for key in ("text", "type")):
            return False
    return all(isinstance(turn, dict) for turn in turns)


def checked_url(url: str) -> str:
    """An origin without the slash at its end.

    Raises:
        ValueError: it is none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(f"{url}: must be the address of a service, such as http://127.0.0.1:8000")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("an address has no name, password, query or fragment; a token is given by token_env=NAME")
    return url.rstrip("/")


def _seconds(header: str | None) -> float | None:
    """A Retry-After in seconds; None where there is none, or a date."""
    given = (header or "").strip()
    return float(given) if given.isascii() and given.isdecimal() and len(given) < 10 else None


def _problem(problem: Problem) -> Reply:
    return Reply(problem.status, None, problem.shown())
