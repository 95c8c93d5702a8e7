"""What a client may ask: its fields with their limits, read from JSON that nobody vouches for.

Knows nothing of HTTP, pictures or engines. Always holds: an `Asked` is within every limit; a field that is not known is
refused, never ignored; the first thing wrong is named by its dotted name.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sake_ray.bounded_json import JsonRefused, parse_json
from sake_ray.serving.problems import Problem, invalid

_DEPTH = 8
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True)
class RequestLimits:
    """What a request may be. `text_searches` and `image_searches` are those of the policy's training."""

    max_text_chars: int = 4_000
    max_body_bytes: int = 12 * 2**20
    max_batch: int = 32
    text_searches: int = 1
    image_searches: int = 1
    deadline_s: float = 60.0
    urls: bool = True


class Options(BaseModel):
    """How a post is to be answered."""

    model_config = _STRICT
    search: Annotated[bool, Field(description="false: the policy may not search")] = True
    text_searches: Annotated[int | None, Field(ge=0, le=16, description="text searches it may make")] = None
    image_searches: Annotated[int | None, Field(ge=0, le=16, description="image searches it may make")] = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1, description="of the sampling, where it is not greedy")] = 0
    temperature: Annotated[float, Field(ge=0.0, le=2.0, description="0: greedy")] = 0.0
    deadline_s: Annotated[float | None, Field(gt=0.0, le=3600.0, description="seconds to wait for the answer")] = None
    thumbnails: Annotated[bool, Field(description="small pictures of what image searches found")] = True
    policy: Annotated[str, Field(max_length=64, description="name of a policy; empty: the first")] = ""


class ExtractBody(BaseModel):
    """A post with its picture: exactly one of `image` and `image_url`."""

    model_config = ConfigDict(
        **_STRICT,
        json_schema_extra={
            "examples": [{"text": "Rosalind Vane opens the Harbour Hall tonight", "image": "iVBORw0KGgo…"}]
        },
    )
    text: Annotated[str, Field(min_length=1, description="the post")]
    image: Annotated[str | None, Field(description="the picture, base64 or a data: URL")] = None
    image_url: Annotated[str | None, Field(max_length=2_048, description="address to fetch it from")] = None
    options: Options = Options()
    stream: Annotated[bool, Field(description="server-sent events, turn by turn")] = False


class BatchBody(BaseModel):
    """Several posts."""

    model_config = _STRICT
    items: Annotated[list[dict[str, Any]], Field(min_length=1, description="each as for /v1/extract, without stream")]


@dataclass(frozen=True)
class Asked:
    """A request that can be carried out. One of `image` (encoded bytes) and `image_url` is there."""

    text: str
    image: bytes | None
    image_url: str
    options: Options
    text_searches: int
    image_searches: int
    deadline_s: float
    stream: bool = False


def read_json(raw: bytes, limits: RequestLimits) -> Any:
    """A body as a JSON value.

    Raises:
        Problem: it is none.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem("bad-json", f"not UTF-8 at byte {error.start}") from None
    try:
        return parse_json(text, max_chars=limits.max_body_bytes, max_depth=_DEPTH, unique_keys=True)
    except JsonRefused as error:
        raise Problem("bad-json", str(error)) from None


def read_extract(value: Any, limits: RequestLimits) -> Asked:
    """What an object of /v1/extract asks for.

    Raises:
        Problem: a field that cannot be, is missing or unknown.
    """
    body = _validated(ExtractBody, value)
    if (body.image is None) == (body.image_url is None):
        raise invalid("image", "give exactly one of image (base64) and image_url")
    image = None if body.image is None else read_base64(body.image)
    return asked(body.text, image, body.image_url or "", body.options, limits, stream=body.stream)


def read_options(value: Any) -> Options:
    """The options of a form, which has them as JSON text.

    Raises:
        Problem: as `read_extract`.
    """
    return _validated(Options, value, "options")


def read_batch(value: Any, limits: RequestLimits) -> list[dict[str, Any]]:
    """The items of a batch, each still to be read.

    Raises:
        Problem: they are no list of objects, or too many.
    """
    items = _validated(BatchBody, value).items
    if len(items) > limits.max_batch:
        raise invalid("items", f"{len(items)} items; a batch has at most {limits.max_batch}")
    return items


def asked(
    text: str, image: bytes | None, image_url: str, options: Options, limits: RequestLimits, *, stream: bool
) -> Asked:
    """A request of these parts, within the limits.

    Raises:
        Problem: text, address or an option is outside of them.
    """
    if not text.strip():
        raise invalid("text", "the post is empty")
    if len(text) > limits.max_text_chars:
        raise invalid("text", f"{len(text)} characters; a post has at most {limits.max_text_chars}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise invalid("text", "half a character (a lone surrogate) stands in the post")
    if image_url and not limits.urls:
        raise invalid("image_url", "this service fetches no pictures (serve.urls=false); send image instead")
    most = {"text_searches": limits.text_searches, "image_searches": limits.image_searches}
    allowed: dict[str, int] = {}
    for name, limit in most.items():
        wanted = getattr(options, name)
        if wanted is not None and wanted > limit:
            raise invalid(f"options.{name}", f"{wanted}; this service allows at most {limit}")
        allowed[name] = 0 if not options.search else limit if wanted is None else wanted
    if options.deadline_s is not None and options.deadline_s > limits.deadline_s:
        raise invalid("options.deadline_s", f"{options.deadline_s:g}; at most {limits.deadline_s:g} seconds")
    return Asked(
        text, image, image_url, options, **allowed, deadline_s=options.deadline_s or limits.deadline_s, stream=stream
    )


def read_base64(text: str) -> bytes:
    """The bytes of base64 text or of a `data:` URL.

    Raises:
        Problem: it is neither.
    """
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise invalid("image", "a data: URL must be of the form data:image/png;base64,…")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise invalid("image", "no base64 (multipart/form-data takes a picture as it is)") from None


def _validated(model: type[Any], value: Any, prefix: str = "") -> Any:
    if not isinstance(value, dict):
        raise Problem("invalid", "must be a JSON object", prefix)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join([prefix, *(str(part) for part in first["loc"])]).strip(".")
        raise invalid(field[:200], first["msg"][:300]) from None
