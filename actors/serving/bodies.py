"""The body of a request: read under limits of size and time, and taken apart by its kind.

Knows nothing of what is done with it. Always holds: no more than `max_body_bytes` of a body are kept, and no longer
than `body_s` are waited for; a body of a kind that is not understood is refused before it is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from python_multipart.exceptions import ParseError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from sake_ray.serving.problems import Problem, invalid
from sake_ray.serving.request import Asked, Options, RequestLimits, asked, read_extract, read_json, read_options

JSON, FORM = "application/json", "multipart/form-data"
_AT_ONCE = 256 * 1024
"""Bytes of JSON that are read in a millisecond or two, less than another thread would cost."""
_FIELDS = ("text", "image", "image_url", "options", "stream")


async def read_body(request: Request, limits: RequestLimits, body_s: float, kinds: tuple[str, ...] = (JSON,)) -> bytes:
    """The whole body.

    Raises:
        Problem: of another kind, too large, too slow or broken off.
    """
    kind = media_type(request)
    if kind not in kinds:
        raise Problem("unsupported", f"Content-Type is {kind[:80] or 'missing'}; must be {' or '.join(kinds)}")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Problem("unsupported", "compressed bodies are not read")
    most = limits.max_body_bytes
    too_large = Problem("too-large", f"a body has at most {most} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(body_s):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise Problem("timeout-body", f"the body did not come within {body_s:g} seconds") from None
    except ClientDisconnect:
        raise Problem("bad-request", "the client left in the middle of the body") from None
    return bytes(body)


async def read_asked(request: Request, limits: RequestLimits, body_s: float) -> Asked:
    """What a request to /v1/extract asks for.

    Raises:
        Problem: anything that keeps it from being answered.
    """
    body = await read_body(request, limits, body_s, (JSON, FORM))
    if media_type(request) == JSON:

        def read() -> Asked:
            return read_extract(read_json(body, limits), limits)

        # Decoding megabytes of base64 would hold up everyone else.
        return read() if len(body) <= _AT_ONCE else await asyncio.to_thread(read)
    return await _read_form(request, body, limits)


def media_type(request: Request) -> str:
    """The kind of a body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read_form(request: Request, body: bytes, limits: RequestLimits) -> Asked:
    async def pieces() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        request.headers, pieces(), max_files=2, max_fields=8, max_part_size=min(limits.max_body_bytes, 1 << 20)
    )
    try:
        form = await parser.parse()
    except (MultiPartException, ParseError, KeyError, UnicodeError) as error:
        words = error.message if isinstance(error, MultiPartException) else "it is broken"
        raise Problem("bad-request", f"the form cannot be read: {words}"[:300]) from None
    try:
        names = [name for name, _ in form.multi_items()]
        for name in names:
            if name not in _FIELDS or names.count(name) > 1:
                why = "is given twice" if name in _FIELDS else f"is no field; there are {', '.join(_FIELDS)}"
                raise invalid(name[:80], why)
        text, image, url = form.get("text"), form.get("image"), form.get("image_url")
        if not isinstance(text, str):
            raise invalid("text", "the post is missing")
        if (image is None) == (url is None):
            raise invalid("image", "give exactly one of image (a file) and image_url")
        if image is not None and not isinstance(image, UploadFile):
            raise invalid("image", "must be a file")
        if url is not None and not isinstance(url, str):
            raise invalid("image_url", "must be a text")
        data = await image.read() if isinstance(image, UploadFile) else None
        return asked(
            text, data, url or "", _options(form.get("options"), limits), limits, stream=_flag(form.get("stream"))
        )
    finally:
        await form.close()


def _options(value: object, limits: RequestLimits) -> Options:
    if value is None:
        return Options()
    if not isinstance(value, str):
        raise invalid("options", "must be JSON text")
    try:
        return read_options(read_json(value.encode("utf-8", "surrogatepass"), limits))
    except Problem as problem:
        raise invalid(problem.field or "options", problem.detail) from None


def _flag(value: object) -> bool:
    if value not in (None, "true", "false"):
        raise invalid("stream", "must be true or false")
    return value == "true"
