"""What an OpenAI-compatible endpoint sends back, read under limits: answers, errors and how long to wait.

Knows nothing of sending, retrying or counting. Always holds: a `ChatAnswer` has every field of the right type and text
that every later step can encode; whatever else an endpoint sends is a `MalformedAnswerError` or
`AnswerTooLargeError`, never an odd value further on.
"""

from __future__ import annotations

import email.utils
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sake_ray.bounded_json import JsonRefused, parse_json
from sake_ray.observation_text import clean_text

MAX_BODY_BYTES = 2 * 1024 * 1024
MAX_ANSWER_CHARS = 256 * 1024
_MAX_DEPTH = 16
_MAX_WORDS = 200
_SURROGATE = re.compile("[\ud800-\udfff]")


class MalformedAnswerError(Exception):
    """A body that is no answer; the message says in a few words what it is instead."""


class AnswerTooLargeError(Exception):
    """A body or text over the limits."""


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """What a model wrote. Token counts are 0 where the endpoint does not tell them."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What an endpoint says about a request it does not take; each "" where it says nothing."""

    code: str = ""
    parameter: str = ""
    words: str = ""


def read_answer(body: bytes) -> ChatAnswer:
    """The first choice of a chat completion.

    Raises:
        MalformedAnswerError: anything but a chat completion with text.
        AnswerTooLargeError: more text than an answer may have.
    """
    try:
        value = parse_json(body.decode("utf-8"), max_chars=MAX_BODY_BYTES, max_depth=_MAX_DEPTH)
    except UnicodeDecodeError as error:
        raise MalformedAnswerError(f"not UTF-8 at byte {error.start}") from error
    except JsonRefused as error:
        raise MalformedAnswerError("no JSON" if error.why == "bad_json" else f"JSON {error}") from error
    choices = _mapping(value, "the body").get("choices")
    if not isinstance(choices, list) or not choices:
        raise MalformedAnswerError("no choices")
    choice = _mapping(choices[0], "the choice")
    text = _mapping(choice.get("message"), "the message").get("content")
    if not isinstance(text, str):
        raise MalformedAnswerError("no text in the message")
    if len(text) > MAX_ANSWER_CHARS:
        raise AnswerTooLargeError(f"{len(text)} characters of text, {MAX_ANSWER_CHARS} are the most")
    if _SURROGATE.search(text):
        raise MalformedAnswerError("text that is no Unicode (half a surrogate pair)")
    finish_reason = choice.get("finish_reason")
    if not isinstance(finish_reason, str | None):
        raise MalformedAnswerError("a finish_reason that is no text")
    usage = value.get("usage") if isinstance(value, Mapping) else None
    usage = {} if usage is None else _mapping(usage, "the usage")
    return ChatAnswer(text, _count(usage, "prompt_tokens"), _count(usage, "completion_tokens"), finish_reason or "")


def read_error(body: object) -> ErrorBody:
    """The code, parameter and words of a decoded error body, in any of the forms that servers use."""
    inner = body.get("error", body) if isinstance(body, Mapping) else None
    if isinstance(inner, str):
        return ErrorBody(words=clean_text(inner, _MAX_WORDS))
    if not isinstance(inner, Mapping):
        return ErrorBody()
    words = next((inner[key] for key in ("message", "detail") if isinstance(inner.get(key), str)), "")
    code, parameter = (value if isinstance(value, str) else "" for value in (inner.get("code"), inner.get("param")))
    return ErrorBody(code[:100], parameter[:100], clean_text(words, _MAX_WORDS))


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait by the headers `retry-after-ms` or `retry-after` (seconds, or a date); None where none holds.

    `now` is the time in seconds since 1970.
    """
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / divisor
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, date.timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _mapping(value: object, name: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise MalformedAnswerError(f"{name} is no JSON object")
    return value


def _count(usage: Mapping[str, object], name: str) -> int:
    value = usage.get(name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise MalformedAnswerError(f"{name} is no count")
    return value
