"""Try a search tool from the shell: prints what it returns, as JSON.

    python launch/search.py provider=offline cache=DIR matching=release img_id=ID kind=text queries='["Ada"]'
    python launch/search.py provider=local root=DIR kind=image queries='["Ada"]'
    python launch/search.py provider=searxng endpoint=http://HOST:8080 kind=text queries='["Ada"]' --trace
    python launch/search.py warm data.root=DIR search.provider=serper …     fill the cache before a run (warm --help)
    python launch/search.py serve root=DIR port=8888                        a local folder as a SearXNG-like service

--trace tells each step on standard error: key, cache, limiter, request, pictures, what is shown. Knows nothing of
episodes or models. Always holds: the result is the only thing on standard output, and it appears whole or not at all; a
wrong setting is one sentence on standard error and exit status 2.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from envs.tools.base import SearchTool, SearchUnavailable
from envs.tools.offline import Asked, OfflineSearchTool, read_queries
from envs.tools.pictures import usable_pictures
from envs.tools.registry import is_web, make_tool
from launch.words import UsageError, read_words
from sake_ray.bounded_json import JsonRefused, parse_json
from sake_ray.config.search_section import SearchConfig
from sake_ray.config.values import Value, field_types, parse_value
from sake_ray.observation_text import format_results
from sake_ray.types import Observation, QueryResult, SearchKind

_SETTINGS = {setting.name: setting for setting in fields(SearchConfig)}


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Options:
    """The command line: every field is one `key=value`, and so is every field of the search settings."""

    queries: str = _option(MISSING, 'JSON list of strings or {"query": …, "top_k": …}')
    kind: str = _option(MISSING, "text or image")
    img_id: str = _option("", "offline: the post whose cached searches are used")
    min_pixels: int = _option(512 * 512, "smaller pictures are enlarged to this size for the model")
    max_pixels: int = _option(672 * 672 * 2, "larger pictures are shrunk to this size for the model")
    search: SearchConfig = field(default_factory=SearchConfig)
    trace: bool = False


def main(arguments: list[str]) -> int:
    """Carry out one command line; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    if arguments[:1] == ["warm"]:
        from launch.warming import main as warm

        return warm(arguments[1:])
    if arguments[:1] == ["serve"]:
        from launch.serve_folder import main as serve

        return serve(arguments[1:])
    if {"-h", "--help", "help"} & set(arguments):
        sys.stdout.write(_help())
        return 0
    try:
        report = search(read_options(arguments))
    # The process boundary: bad settings, bad cache, no tool, nothing left to spend.
    except (ValueError, SearchUnavailable, RuntimeError) as error:
        sys.stderr.write(f"search: {error}\n")
        return 2
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0


def read_options(arguments: list[str]) -> Options:
    """Read `key=value` words.

    Raises:
        UsageError: an unknown or repeated key, a required key missing.
        ConfigError: a value of the wrong type or out of bounds.
    """
    own = [option.name for option in fields(Options) if option.name not in ("search", "trace")]
    trace = "--trace" in arguments
    words = read_words([word for word in arguments if word != "--trace"], [*own, *_SETTINGS], ("kind", "queries"))
    if words["kind"] not in list(SearchKind):
        raise UsageError(f"kind={words['kind']}: must be text or image")
    types = field_types(SearchConfig)
    settings: dict[str, Any] = {
        key: parse_value(key, text, types[key], _default(key)) for key, text in words.items() if key in types
    }
    asked: dict[str, Any] = {key: words[key] for key in ("queries", "kind", "img_id") if key in words}
    asked |= {key: _pixels(key, words[key]) for key in ("min_pixels", "max_pixels") if key in words}
    return Options(**asked, search=SearchConfig(**settings), trace=trace)


def search(options: Options) -> dict[str, Any]:
    """Ask the tool that `options` describe and report its answer.

    The report has `text`, or `image` and `image_sizes` (width and height of every picture as the model
    sees it, in the order it sees them), beside what was asked.
    """
    settings = options.search
    try:
        raw = parse_json(options.queries, max_chars=100_000, max_depth=8)
    except JsonRefused as error:
        raise UsageError(f"queries: cannot be read as JSON ({error})") from error
    asked = read_queries(raw, default_top_k=settings.images_per_query)
    kind = SearchKind(options.kind)
    if is_web(settings.provider):
        answers, shown = asyncio.run(_ask_web(options, kind, asked))
    else:
        tool = make_tool(settings)
        if isinstance(tool, OfflineSearchTool):
            if not options.img_id:
                raise UsageError("provider=offline needs img_id=ID, the post whose cached searches are used")
            found = tool.find(kind, options.img_id, asked)
            answers = [tool.as_released(kind, item) for item in found]
            pictures = usable_pictures(image.path for item in found for image in item.shown)
            shown = [(ref.width, ref.height) for ref in pictures]
        else:
            answers, shown = asyncio.run(_ask_plain(tool, kind, options, asked))
    report: dict[str, Any] = {"img_id": options.img_id, "queries": raw, kind.value: answers}
    if kind is SearchKind.IMAGE:
        report["image_sizes"] = [_processed(size, options) for size in shown]
    return report


async def _ask_web(
    options: Options, kind: SearchKind, asked: list[Asked]
) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    from launch.search_tool import default_cache_dir, open_web_tool

    settings = options.search
    trace = Trace() if options.trace else None
    cache_dir = Path(settings.cache_dir or default_cache_dir())
    async with open_web_tool(settings, cache_dir, options.max_pixels, trace) as tool:
        calls = (tool.answer(kind, item.query, options.img_id, settings.timeout_s) for item in asked)
        results = await asyncio.gather(*calls)
    return _in_cache_form(kind, results, trace, settings.max_chars)


async def _ask_plain(
    tool: SearchTool, kind: SearchKind, options: Options, asked: list[Asked]
) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    """Ask any tool, and put its results in the cache's form."""
    trace = Trace() if options.trace else None
    queries = [item.query for item in asked]
    call = tool.search_text if kind is SearchKind.TEXT else tool.search_images
    results = await call(options.img_id, queries)
    return _in_cache_form(kind, results, trace, options.search.max_chars)


def _in_cache_form(
    kind: SearchKind, results: list[QueryResult], trace: Trace | None, max_chars: int
) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    if trace is not None:
        trace("shown to the policy", {"text": format_results(Observation(kind, tuple(results)), max_chars)})
    answers = []
    for result in results:
        answer: dict[str, Any] = {"summary": result.text}
        if kind is SearchKind.IMAGE:
            answer = {"images": [{"path": image.path} for image in result.images]}
        why = {"reason": str(result.reason)} if result.reason else {}
        answers.append({"query": result.query, "status": result.status, "result": answer, **why})
    return answers, [(image.width, image.height) for result in results for image in result.images]


class Trace:
    """Writes each step of a search to standard error, with the milliseconds since the start."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def __call__(self, step: str, said: Mapping[str, Any]) -> None:
        """One step."""
        told = "  ".join(f"{name}={value}" for name, value in said.items())
        sys.stderr.write(f"{(time.perf_counter() - self._began) * 1e3:9.1f} ms  {step:<20} {told}\n")


def _processed(size: tuple[int, int], options: Options) -> list[int]:
    from sake_ray.data.images import processed_size

    return list(processed_size(*size, min_pixels=options.min_pixels, max_pixels=options.max_pixels))


def _default(key: str) -> Value:
    value: Value = getattr(SearchConfig, key)
    return value


def _pixels(key: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise UsageError(f"{key}={text}: must be a whole number")
    if int(text) < 1:
        raise UsageError(f"{key}={text}: is too small")
    return int(text)


def _help() -> str:
    lines = [__doc__ or "", "Keys:"]
    for option in fields(Options):
        if option.name not in ("search", "trace"):
            default = "required" if option.default is MISSING else f"default {option.default!r}"
            lines.append(f"  {option.name:<19} {option.metadata['help']} ({default})")
    lines += ["", "Search settings (search.* of every job):"]
    lines += [f"  {name:<19} {item.metadata['help']} (default {item.default!r})" for name, item in _SETTINGS.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
