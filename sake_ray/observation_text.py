"""What a search says to the policy, as plain text: cleaned, bounded, one line a query.

Knows nothing of tokenizers, tools or templates. Always holds: text from outside can neither open a
chat turn, nor stand for an image, nor speak our protocol's tags, nor span two lines.
"""

from __future__ import annotations

import re
import unicodedata

from sake_ray.types import Observation, QueryResult, SearchKind

# Stands for one image of the results, in their order; a codec puts the picture in its place.
IMAGE_MARKER = "{image}"
NO_RESULT = "Nothing was found."
FAILED = "The search did not answer."
ELLIPSIS = " ..."

_SPECIAL = re.compile(r"<\|[^<>]{0,128}?\|>")
_SPECIAL_EDGE = re.compile(r"<\||\|>")
_TAG = re.compile(
    r"<\s*/?\s*(?:reason|answer|text_search|image_search|information|think|tool_call|tool_response)\b[^<>]*>",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"\{\s*(image|post|results)\s*\}")
_BLANKS = re.compile(r"\s+")


def clean_text(text: str, max_chars: int = 2_000) -> str:
    """Untrusted words made harmless: one line of at most `max_chars` characters.

    Taken out: control, format and private characters, lone surrogates, everything of the form `<|…|>`
    and either edge of it, the tags of our protocol and of tool calls, and our templates' placeholders.
    """
    # Cutting first keeps the work bounded; the generous factor keeps the words that markup would have hidden.
    text = "".join(_harmless(char) for char in text[: 4 * max_chars])
    text = _SPECIAL.sub(" ", text)
    # A blank in place of each edge, so that what remains on both sides cannot join into a new one.
    text = _SPECIAL_EDGE.sub(" ", text)
    text = _drop_tags(text)
    text = _PLACEHOLDER.sub(r" \1 ", text)
    text = _BLANKS.sub(" ", text).strip()
    return _cut(text, max_chars)


def format_results(observation: Observation, max_chars: int = 2_000) -> str:
    """The text of `{results}`: a line `- query: answer` for each result.

    A text search answers with its summary, an image search with one `IMAGE_MARKER` a picture; an empty
    or failed one with a fixed sentence. `max_chars` bounds each answer.

    Raises:
        ValueError: a result has a status that is not known.
    """
    return "\n".join(f"- {_line(result, observation.kind, max_chars)}" for result in observation.results)


def _line(result: QueryResult, kind: SearchKind, max_chars: int) -> str:
    return f"{clean_text(result.query, 256)}: {_answer(result, kind, max_chars)}"


def _answer(result: QueryResult, kind: SearchKind, max_chars: int) -> str:
    if result.status == "failed":
        return FAILED
    if result.status == "no_result":
        return NO_RESULT
    if result.status != "success":
        raise ValueError(f"query {result.query!r}: status {result.status!r} is not success, no_result or failed")
    if kind is SearchKind.IMAGE:
        return " ".join([IMAGE_MARKER] * len(result.images)) or NO_RESULT
    return clean_text(result.text, max_chars) or NO_RESULT


def _harmless(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Cc":
        return " "
    # Zero-width and direction marks could hide a tag from the patterns above, or the words from a reader.
    return "" if category in ("Cf", "Cs", "Co", "Cn") else char


def _drop_tags(text: str) -> str:
    """Without tags, repeated until none is left: what stands around a dropped tag may form another."""
    while True:
        text, dropped = _TAG.subn(" ", text)
        if not dropped:
            return text


def _cut(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    if max_chars <= len(ELLIPSIS):
        return text[:max_chars].strip()
    return text[: max_chars - len(ELLIPSIS)].rstrip() + ELLIPSIS
