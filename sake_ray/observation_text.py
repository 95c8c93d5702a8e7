"""What a search says to the policy, as plain text: cleaned, bounded, one line a query.

Knows nothing of tokenizers, tools or templates. Always holds: text from outside can neither open a
chat turn, nor stand for an image, nor speak our protocol's tags, nor span two lines, also not after
Unicode normalisation of any form (fullwidth brackets and the like); of a result that failed nothing but
its reason is said, in a sentence of ours.
"""

from __future__ import annotations

import re
import unicodedata

from sake_ray.types import Observation, QueryResult, SearchFailure, SearchKind

# Stands for one image of the results, in their order; a codec puts the picture in its place.
IMAGE_MARKER = "{image}"
NO_RESULT = "Nothing was found."
FAILED = "The search did not answer."
WHY_FAILED = {
    SearchFailure.TIMEOUT: "The search took too long.",
    SearchFailure.UNAVAILABLE: "The search is not available now.",
    SearchFailure.BROKEN: FAILED,
    SearchFailure.REFUSED: "The search does not take this query.",
    SearchFailure.NOT_RECORDED: "The search has no record of this query.",
    SearchFailure.LOST: "The search was broken off.",
}
"""What the policy is told instead of a result that failed."""
ELLIPSIS = " ..."
MAX_WORD = 100
"""Characters of a word that are shown of a result (in scripts that part words by blanks)."""
MAX_REPEAT = 16
MAX_MARKS = 4
"""Marks (accents) on one letter; no language stacks more."""

_SPECIAL = re.compile(r"<\|[^<>]{0,128}?\|>")
_SPECIAL_EDGE = re.compile(r"<\||\|>")
# The rest of a tag goes with it, where there is one: its beginning alone could be closed by what stands behind it.
_TAG = re.compile(
    r"<\s*/?\s*(?:reason|answer|text_search|image_search|information|think|tool_call|tool_response)\b(?:[^<>]*>)?",
    re.IGNORECASE,
)
_MAX_NESTING = 8
_PLACEHOLDER = re.compile(r"\{\s*(image|post|results)\s*\}")
_BLANKS = re.compile(r"\s+")
_REPEATED = re.compile(rf"(.)\1{{{MAX_REPEAT},}}")
# Thai to Tibetan, Burmese, Khmer, and from CJK on: written without blanks.
_LONG_WORD = re.compile(rf"([^\s\u0e00-\u109f\u1780-\u17ff\u2e80-\uffef\U00020000-\U0003ffff]{{{MAX_WORD}}})[^\s]+")


def clean_text(text: str, max_chars: int = 2_000) -> str:
    """Untrusted words made harmless: one line of at most `max_chars` characters.

    Taken out: control, format and private characters, lone surrogates, everything of the form `<|…|>`
    and either edge of it, the tags of our protocol and of tool calls, and our templates' placeholders.
    Words that would hold any of it after Unicode's compatibility normalisation (NFKC) are shown
    normalised, without it; all others keep their characters.
    """
    return _cleaned(_readable(text, max_chars), max_chars)


def _readable(text: str, max_chars: int) -> str:
    """Without characters that nobody sees, which could hide a tag or a run from the patterns.

    Cutting first keeps the work bounded; the generous factor keeps the words that markup would have hidden.
    """
    return "".join(_harmless(char) for char in text[: 4 * max_chars])


def _cleaned(text: str, max_chars: int) -> str:
    text = _without_markup(text)
    if not text.isascii():
        plain = _one_line("".join(_harmless(char) for char in unicodedata.normalize("NFKC", text)))
        stripped = _without_markup(plain)
        text = text if stripped == plain else stripped
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
    return f"{_clean_result(result.query, 256)}: {_answer(result, kind, max_chars)}"


def _answer(result: QueryResult, kind: SearchKind, max_chars: int) -> str:
    if result.status == "failed":
        return FAILED if result.reason is None else WHY_FAILED[result.reason]
    if result.status == "no_result":
        return NO_RESULT
    if result.status != "success":
        raise ValueError(f"query {result.query!r}: status {result.status!r} is not success, no_result or failed")
    if kind is SearchKind.IMAGE:
        return " ".join([IMAGE_MARKER] * len(result.images)) or NO_RESULT
    return _clean_result(result.text, max_chars) or NO_RESULT


def _clean_result(text: str, max_chars: int) -> str:
    """`clean_text` for words from the web: also without over-long runs. (A post stays as its gold was marked.)"""
    # Before the markup goes, so that nothing can form after it.
    text = _few_marks(_readable(text, max_chars))
    text = _REPEATED.sub(lambda run: run[1] * MAX_REPEAT, text)
    return _cleaned(_LONG_WORD.sub(rf"\1{ELLIPSIS} ", text), max_chars)


def _few_marks(text: str) -> str:
    """Without the marks that pile up on a letter, or that choose a variant of it by number (and can carry words)."""
    if text.isascii():
        return text
    kept: list[str] = []
    marks = 0
    for char in text:
        marks = marks + 1 if unicodedata.category(char) in ("Mn", "Me") else 0
        if marks <= MAX_MARKS and not "\U000e0100" <= char <= "\U000e01ef":
            kept.append(char)
    return "".join(kept)


def _harmless(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Cc":
        return " "
    # Zero-width and direction marks could hide a tag from the patterns above, or the words from a reader.
    return "" if category in ("Cf", "Cs", "Co", "Cn") else char


def _without_markup(text: str) -> str:
    """One line without special tokens, tags and placeholders."""
    # Blanks first: a long run of them would cost the patterns a time that grows with its square.
    text = _SPECIAL.sub(" ", _one_line(text))
    # A blank in place of each edge, so that what remains on both sides cannot join into a new one.
    text = _SPECIAL_EDGE.sub(" ", text)
    text = _drop_tags(text)
    return _one_line(_PLACEHOLDER.sub(r" \1 ", text))


def _one_line(text: str) -> str:
    return _BLANKS.sub(" ", text).strip()


def _drop_tags(text: str) -> str:
    """Without tags, repeated until none is left: what stands around a dropped tag may form another."""
    for _ in range(_MAX_NESTING):
        text, dropped = _TAG.subn(" ", text)
        if not dropped:
            return text
    return text.replace("<", " ")  # nobody nests so deep who means well, and it could go on as long as the text


def _cut(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    if max_chars <= len(ELLIPSIS):
        return text[:max_chars].strip()
    return text[: max_chars - len(ELLIPSIS)].rstrip() + ELLIPSIS
