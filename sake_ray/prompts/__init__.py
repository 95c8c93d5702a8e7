"""The prompt templates: loading them, and filling in a post and its search results.

Knows nothing of tokenizers or chat formats. Always holds: a template is checked when it is loaded, and
filled in one pass, so nothing inside a post or a result is ever taken for a placeholder; every image
stands as an `ImageRef` between the pieces of text, in the order in which the policy sees it.

Files, one folder a set: `<task>_instruction.txt`, `<task>_after_text_search.txt` and
`<task>_after_image_search.txt`. Placeholders: `{image}` (the post's image), `{post}` (its text) and, after
a search, `{results}`. Any other braces are plain text. `<task>_direct.txt` is the instruction without tools that
stage 1a samples with; only that job needs it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from sake_ray.observation_text import IMAGE_MARKER, clean_text, format_results
from sake_ray.types import Example, ImageRef, Observation, SearchKind

TASKS = ("gmner", "fmnerg")
SETS = ("full", "compact")
MAX_TEMPLATE_BYTES = 64 * 1024
MAX_POST_CHARS = 4_000

Part = str | ImageRef

_PLACEHOLDER = re.compile(r"\{(image|post|results)\}")
# `{Image}` or `{ post }` is a slip of the pen, not plain text.
_NEARLY = re.compile(r"\{\s*(?:image|post|results?)s?\s*\}", re.IGNORECASE)


class PromptError(ValueError):
    """A prompt file that is missing or cannot be used; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """The three templates of a task, checked."""

    instruction: str
    after_text_search: str
    after_image_search: str

    def first_turn(self, example: Example) -> tuple[Part, ...]:
        """The first user turn: text pieces and the post's image, in reading order."""
        return _fill(self.instruction, example, "", ())

    def search_turn(self, example: Example, observation: Observation, max_chars: int = 2_000) -> tuple[Part, ...]:
        """The user turn that answers a search, pictures of its results included.

        `max_chars` bounds the text of each result.
        """
        by_kind = {SearchKind.TEXT: self.after_text_search, SearchKind.IMAGE: self.after_image_search}
        # Only an image search shows pictures; a text result's, should a tool give one, has no marker.
        show = observation.kind is SearchKind.IMAGE
        images = tuple(image for result in observation.results for image in _shown(result.status, result.images, show))
        return _fill(by_kind[observation.kind], example, format_results(observation, max_chars), images)


def load_prompts(task: str, set_name: str, folder: str = "") -> Prompts:
    """Load the templates of `task` ("gmner" or "fmnerg").

    They come from the package's set `set_name` ("full" or "compact"), or from `folder` when it is given.

    Raises:
        PromptError: an unknown task or set; a file that is missing, empty, not UTF-8 or over 64 KiB;
            a placeholder that is missing, repeated or misplaced.
    """
    root = _folder(task, set_name, folder)
    return Prompts(
        instruction=_load(root / f"{task}_instruction.txt", results=False),
        after_text_search=_load(root / f"{task}_after_text_search.txt", results=True),
        after_image_search=_load(root / f"{task}_after_image_search.txt", results=True),
    )


def load_direct_prompts(task: str, set_name: str, folder: str = "") -> Prompts:
    """`load_prompts`, with the instruction that offers no tools: what stage 1a asks the base model with.

    Raises:
        PromptError: as `load_prompts`.
    """
    root = _folder(task, set_name, folder)
    instruction = _load(root / f"{task}_direct.txt", results=False)
    return replace(load_prompts(task, set_name, folder), instruction=instruction)


def _folder(task: str, set_name: str, folder: str) -> Path:
    if task not in TASKS:
        raise PromptError(f"data.task={task!r}: must be one of {', '.join(TASKS)}")
    if not folder and set_name not in SETS:
        raise PromptError(f"prompts.set={set_name!r}: must be one of {', '.join(SETS)}")
    return Path(folder) if folder else Path(__file__).parent / set_name


def read_template(path: Path) -> str:
    """The text of a prompt file.

    Raises:
        PromptError: it is missing, empty, not UTF-8 or over 64 KiB.
    """
    if not path.is_file():
        raise PromptError(f"{path}: no such prompt file; a set of prompts has all files of its task")
    raw = path.read_bytes()
    if len(raw) > MAX_TEMPLATE_BYTES:
        raise PromptError(f"{path}: {len(raw)} bytes; a prompt has at most {MAX_TEMPLATE_BYTES}")
    try:
        text = raw.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8 text") from error
    if not text:
        raise PromptError(f"{path}: the file is empty")
    return text


def _load(path: Path, *, results: bool) -> str:
    text = read_template(path)
    for match in _NEARLY.finditer(text):
        if not _PLACEHOLDER.fullmatch(match.group()):
            raise PromptError(f"{path}: {match.group()!r} is no placeholder; use {{image}}, {{post}} or {{results}}")
    _check_counts(path, text, results=results)
    return text


def _check_counts(path: Path, text: str, *, results: bool) -> None:
    """The first turn shows image and post once; a later one the results once, image and post at most once."""
    allowed = {"image": (0 if results else 1, 1), "post": (0 if results else 1, 1), "results": (int(results),) * 2}
    for name, (least, most) in allowed.items():
        count = text.count(f"{{{name}}}")
        if not least <= count <= most:
            wanted = str(least) if least == most else f"{least} or {most}"
            raise PromptError(f"{path}: {{{name}}} occurs {count} times; it must occur {wanted} times")


def _shown(status: str, images: tuple[ImageRef, ...], show: bool) -> tuple[ImageRef, ...]:
    return images if show and status == "success" else ()


def _fill(template: str, example: Example, results: str, result_images: tuple[ImageRef, ...]) -> tuple[Part, ...]:
    parts: list[Part] = []
    # re.split with one group gives text, name, text, name, …
    for index, piece in enumerate(_PLACEHOLDER.split(template)):
        if index % 2 == 0:
            parts.append(piece)
        elif piece == "image":
            parts.append(example.image)
        elif piece == "post":
            parts.append(clean_text(example.text, MAX_POST_CHARS))
        else:
            parts.extend(_with_images(results, result_images))
    return _joined(parts)


def _with_images(text: str, images: tuple[ImageRef, ...]) -> list[Part]:
    """The results' text with a picture in place of each marker (cleaned text has none of its own)."""
    pieces = text.split(IMAGE_MARKER)
    parts: list[Part] = [pieces[0]]
    for image, piece in zip(images, pieces[1:], strict=True):
        parts += [image, piece]
    return parts


def _joined(parts: list[Part]) -> tuple[Part, ...]:
    """Neighbouring texts as one, empty ones dropped: pieces are encoded apart, and a cut changes their tokens."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return tuple(joined)
