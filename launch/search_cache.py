"""The store of search answers from the shell: what it holds, and the release's search cache into it and out of it.

    python launch/search_cache.py info dir=DIR
    python launch/search_cache.py import dir=DIR from=RELEASED provider=NAME [preset=… search.max_chars=… …]
    python launch/search_cache.py export dir=DIR to=FOLDER provider=NAME
    python launch/search_cache.py prune dir=DIR gib=NUMBER [keep_s=SECONDS]

`import` keeps the answers for jobs with the same settings: give it the job's words. `prune` removes what was not used
for longest, and keeps the files of removed pictures for keep_s seconds (3600) as a running job may still read them.
Knows nothing of runs or services. Always holds: what was done is on standard output as JSON; what cannot be done is one
sentence on standard error and exit status 2.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from envs.answers.released import export_released, import_released
from envs.answers.store import KEEP_S, AnswerStore
from envs.tools.registry import shown_settings
from envs.tools.shown import shown_key
from launch.words import UsageError, read_words
from sake_ray.bounded_json import parse_json
from sake_ray.config.load import resolve
from sake_ray.types import SearchKind


def main(arguments: Sequence[str]) -> int:
    """Carry out one command line; returns the exit status."""
    if not arguments or {"-h", "--help", "help"} & set(arguments):
        sys.stdout.write(__doc__ or "")
        return 0 if arguments else 2
    try:
        action = _ACTIONS.get(arguments[0])
        if action is None:
            raise UsageError(f"{arguments[0]!r}: the first word must be one of {', '.join(_ACTIONS)}")
        report = action(arguments[1:])
    except (ValueError, OSError) as error:  # the process boundary: bad words or settings, a folder that cannot be used
        sys.stderr.write(f"search_cache: {error}\n")
        return 2
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0


def _info(arguments: Sequence[str]) -> Mapping[str, Any]:
    words = read_words(arguments, ["dir"], required=["dir"])
    with _open(words["dir"], "read_only") as store:
        kinds = {f"{provider} {kind}": count for (provider, kind), count in store.by_kind().items()}
        return {**dataclasses.asdict(store.stats()), "by_kind": kinds}


def _import(arguments: Sequence[str]) -> Mapping[str, Any]:
    settings = [word for word in arguments if "." in word.partition("=")[0] or word.startswith("preset=")]
    known = ["dir", "from", "provider"]
    words = read_words([word for word in arguments if word not in settings], known, required=known)
    config = resolve([*settings, f"search.provider={words['provider']}"], job="search_cache")
    shown = shown_settings(config.search, config.data.max_pixels)

    def options_of(kind: SearchKind) -> Mapping[str, Any]:
        options = parse_json(shown_key(words["provider"], kind, "", shown).options, max_chars=100_000, max_depth=8)
        if not isinstance(options, dict):
            raise TypeError("the options of a key are an object")
        return options

    # As a recording: whatever is too old is not, and nothing is evicted while it grows.
    with _open(words["dir"], "record") as store:
        return dataclasses.asdict(
            import_released(
                store,
                Path(words["from"]),
                words["provider"],
                options_of=options_of,
                images_per_query=config.search.images_per_query,
                max_chars=config.search.max_chars,
            )
        )


def _export(arguments: Sequence[str]) -> Mapping[str, Any]:
    known = ["dir", "to", "provider"]
    words = read_words(arguments, known, required=known)
    with _open(words["dir"], "read_only") as store:
        return dataclasses.asdict(export_released(store, Path(words["to"]), words["provider"]))


def _prune(arguments: Sequence[str]) -> Mapping[str, Any]:
    words = read_words(arguments, ["dir", "gib", "keep_s"], required=["dir", "gib"])
    gib, keep_s = _number("gib", words["gib"]), _number("keep_s", words.get("keep_s", str(KEEP_S)))
    _open(words["dir"], "read_only").close()  # pruning must not make a store where there is none
    with _open(words["dir"], "on") as store:
        pruned = store.prune(int(gib * 2**30), keep_s=keep_s)
        return {**dataclasses.asdict(pruned), "bytes": store.stats().bytes}


def _open(folder: str, mode: str) -> AnswerStore:
    # No bound of its own and no age: a job's settings are not known here.
    return AnswerStore(Path(folder), mode=mode, max_bytes=2**62, ttl_s=math.inf)


def _number(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise UsageError(f"{key}={text}: must be a number") from error
    if not 0 <= value < 2**30:
        raise UsageError(f"{key}={text}: must be a number of at least 0")
    return value


_ACTIONS: dict[str, Callable[[Sequence[str]], Mapping[str, Any]]] = {
    "info": _info,
    "import": _import,
    "export": _export,
    "prune": _prune,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
