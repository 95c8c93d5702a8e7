"""Try a search tool from the shell: prints what it returns, as JSON.

    python launch/search.py provider=offline cache=DIR matching=release img_id=ID kind=text queries='["Ada"]'
    python launch/search.py provider=local root=DIR kind=image queries='["Ada"]'

Knows nothing of episodes or models. Always holds: the result is the only thing on standard output, and it
appears whole or not at all; a wrong setting is one sentence on standard error and exit status 2.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from envs.tools.base import SearchTool, SearchUnavailable
from envs.tools.offline import Asked, OfflineSearchTool, read_queries
from envs.tools.pictures import usable_pictures
from envs.tools.registry import make_tool
from launch.words import UsageError, read_words
from sake_ray.bounded_json import JsonRefused, parse_json
from sake_ray.types import SearchKind


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Options:
    """The command line: every field is one `key=value`."""

    queries: str = _option(MISSING, 'JSON list of strings or {"query": …, "top_k": …}')
    kind: str = _option(MISSING, "text or image")
    provider: str = _option("local", "offline (a released search cache) or local (an encyclopaedia folder)")
    cache: str = _option("", "offline: folder of the cache")
    img_id: str = _option("", "offline: the post whose cached searches are used")
    matching: str = _option("strict", "offline: strict (no result below threshold) or release (nearest entry)")
    threshold: float = _option(0.6, "offline, strict: least similarity of query and cached query, 0 to 1")
    root: str = _option("", "local: folder with encyclopaedia.sqlite and pictures/")
    images_per_query: int = _option(1, "pictures a query may give; offline: a query's top_k wins")
    max_chars: int = _option(2_000, "characters of a text result that are kept (local)")
    min_pixels: int = _option(512 * 512, "smaller pictures are enlarged to this size for the model")
    max_pixels: int = _option(672 * 672 * 2, "larger pictures are shrunk to this size for the model")


def main(arguments: list[str]) -> int:
    """Carry out one command line; returns the exit status."""
    if {"-h", "--help", "help"} & set(arguments):
        sys.stdout.write(_help())
        return 0
    try:
        report = search(read_options(arguments))
    except (ValueError, SearchUnavailable) as error:  # the process boundary: bad settings, bad cache, no tool
        sys.stderr.write(f"search: {error}\n")
        return 2
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0


def read_options(arguments: list[str]) -> Options:
    """Read `key=value` words.

    Raises:
        UsageError: an unknown or repeated key, a value of the wrong type, a required key missing.
    """
    words = read_words(arguments, [option.name for option in fields(Options)], required=("kind", "queries"))
    values: dict[str, Any] = {key: _typed(key, text) for key, text in words.items()}
    if values["kind"] not in list(SearchKind):
        raise UsageError(f"kind={values['kind']}: must be text or image")
    return Options(**values)


def search(options: Options) -> dict[str, Any]:
    """Ask the tool that `options` describe and report its answer.

    The report has `text`, or `image` and `image_sizes` (width and height of every picture as the model
    sees it, in the order it sees them), beside what was asked.
    """
    try:
        raw = parse_json(options.queries, max_chars=100_000, max_depth=8)
    except JsonRefused as error:
        raise UsageError(f"queries: cannot be read as JSON ({error})") from error
    asked = read_queries(raw, default_top_k=options.images_per_query)
    kind = SearchKind(options.kind)
    tool = make_tool(options)
    if isinstance(tool, OfflineSearchTool):
        if not options.img_id:
            raise UsageError("provider=offline needs img_id=ID, the post whose cached searches are used")
        found = tool.find(kind, options.img_id, asked)
        answers = [tool.as_released(kind, item) for item in found]
        pictures = usable_pictures(image.path for item in found for image in item.shown)
        shown = [(ref.width, ref.height) for ref in pictures]
    else:
        answers, shown = asyncio.run(_ask_plain(tool, kind, options.img_id, asked))
    report: dict[str, Any] = {"img_id": options.img_id, "queries": raw, kind.value: answers}
    if kind is SearchKind.IMAGE:
        report["image_sizes"] = [_processed(size, options) for size in shown]
    return report


async def _ask_plain(
    tool: SearchTool, kind: SearchKind, example_id: str, asked: list[Asked]
) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    """Ask any tool, and put its results in the cache's form."""
    queries = [item.query for item in asked]
    if kind is SearchKind.TEXT:
        results = await tool.search_text(example_id, queries)
        return [{"query": r.query, "status": r.status, "result": {"summary": r.text}} for r in results], []
    results = await tool.search_images(example_id, queries)
    answers = [
        {"query": r.query, "status": r.status, "result": {"images": [{"path": i.path} for i in r.images]}}
        for r in results
    ]
    return answers, [(image.width, image.height) for r in results for image in r.images]


def _processed(size: tuple[int, int], options: Options) -> list[int]:
    from sake_ray.data.images import processed_size

    return list(processed_size(*size, min_pixels=options.min_pixels, max_pixels=options.max_pixels))


def _typed(key: str, text: str) -> object:
    kind = {"threshold": float, "images_per_query": int, "max_chars": int, "min_pixels": int, "max_pixels": int}.get(
        key
    )
    if kind is None:
        return text
    try:
        value = kind(text)
    except ValueError as error:
        raise UsageError(f"{key}={text}: must be a {'number' if kind is float else 'whole number'}") from error
    if not value >= (0 if kind is float else 1):
        raise UsageError(f"{key}={text}: is too small")
    return value


def _help() -> str:
    lines = [__doc__ or "", "Keys:"]
    for option in fields(Options):
        default = "required" if option.default is MISSING else f"default {option.default!r}"
        lines.append(f"  {option.name:<17} {option.metadata['help']} ({default})")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
