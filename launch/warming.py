"""`launch/search.py warm`: asks the web what a run will ask, before it runs.

    python launch/search.py warm data.root=DIR search.provider=serper search.cost_per_call=0.001
    python launch/search.py warm … of=runs/RUN/trajectories.jsonl kinds=text yes=true

Of a data set it asks for every entity's name; of a run's trajectories, for what that run asked. Answers go into the
cache that a run with the same settings reads. Knows nothing of providers. Always holds: what is in the cache costs
nothing, so that a warming that was cut off goes on where it was; nothing is spent that was not agreed to.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from envs.answers.key import normalised
from envs.tools.web_tool import SearchSpent, WebTool
from launch.display import ProgressBars
from launch.job_data import load_data
from launch.search_tool import cache_dir, open_web_tool
from launch.words import UsageError, read_words
from sake_ray.config.config import Config
from sake_ray.config.load import resolve
from sake_ray.data.json_files import read_values
from sake_ray.data.problems import DataError
from sake_ray.types import Example, SearchKind

log = logging.getLogger(__name__)
_WORDS = {"of": "a run's trajectories.jsonl; empty: the names of the training posts' entities",
          "kinds": "text, image or text,image", "yes": "true: do not ask before spending"}  # fmt: skip
_LINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """One query, and the first post that has it."""

    kind: SearchKind
    query: str
    post: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is left to ask: `cost` in the currency of search.cost_per_call, `seconds` at the configured rate."""

    queries: int
    known: int
    requests: int
    cost: float
    seconds: float

    def text(self) -> str:
        """For the person who pays."""
        return (
            f"{self.queries} queries, {self.known} of them in the cache already; {self.requests} requests to send, "
            f"about {self.cost:.2f} at search.cost_per_call, at least {self.seconds / 60:.1f} minutes"
        )


def main(arguments: Sequence[str]) -> int:
    """Carry out one command line; returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        keys = "".join(f"  {name:<8}{text}\n" for name, text in _WORDS.items())
        sys.stdout.write(f"{__doc__}\nKeys, beside the settings of a job:\n{keys}")
        return 0
    logging.getLogger("launch").setLevel(logging.INFO)
    own = [word for word in arguments if "." not in word.partition("=")[0] and not word.startswith("preset=")]
    try:
        words = read_words(own, list(_WORDS))
        config = resolve([word for word in arguments if word not in own], job="warm")
        kinds = tuple(SearchKind(kind) for kind in words.get("kinds", "text,image").split(","))
        wanted = list(
            dict.fromkeys(_of_run(Path(words["of"])) if words.get("of") else _of_posts(load_data(config).train))
        )
        chosen = _without_repeats(query for query in wanted if query.kind in kinds)
        return asyncio.run(warm(config, chosen, agreed=words.get("yes") == "true"))
    except (ValueError, SearchSpent) as error:  # the process boundary: bad settings, bad data, nothing left to spend
        sys.stderr.write(f"search warm: {error}\n")
        return 2


async def warm(
    config: Config, wanted: Sequence[Wanted], *, agreed: bool, ask: Callable[[str], bool] | None = None
) -> int:
    """Ask for what is not in the cache; returns the exit status.

    Raises:
        UsageError: it would cost something and nobody agreed; or the provider is none of the web.
        SearchSpent: no key or budget is left; what was asked until then is in the cache.
    """
    if config.search.cache in ("off", "read_only"):
        raise UsageError(f"search.cache={config.search.cache}: warming writes the cache; use on or record")
    folder = cache_dir(config)
    async with open_web_tool(config.search, folder, config.data.max_pixels) as tool:
        left = estimate(tool, wanted, config)
        log.info("%s", left.text())
        if left.requests and not agreed and not (ask or _asked_person)(left.text()):
            raise UsageError("nothing was asked; say yes, or give yes=true")
        rest = [query for query in wanted if not tool.is_known(query.kind, query.query)]
        outcomes = await _ask_all(tool, rest, config)
        counts = tool.counts()
    told = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items())) or "nothing to ask"
    log.info("done: %s; cost %.4f", told, counts.get("cost", 0.0))
    return 0


def estimate(tool: WebTool, wanted: Sequence[Wanted], config: Config) -> Estimate:
    """What asking for the rest will take."""
    needed = [tool.requests_for(query.kind, query.query) for query in wanted]
    requests = sum(needed)
    rate = config.search.per_second * max(1, tool.keys)
    return Estimate(
        queries=len(wanted),
        known=sum(tool.is_known(query.kind, query.query) for query in wanted),
        requests=requests,
        cost=requests * config.search.cost_per_call,
        seconds=requests / rate,
    )


async def _ask_all(tool: WebTool, wanted: Sequence[Wanted], config: Config) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    bars = ProgressBars() if sys.stderr.isatty() else None
    began = told = time.monotonic()
    queue = iter(wanted)

    async def worker() -> None:
        nonlocal told
        for query in queue:
            result = await tool.answer(query.kind, query.query, query.post, config.search.timeout_s)
            outcomes[str(result.reason or result.status)] += 1
            done = outcomes.total()
            if bars is not None:
                bars.show({"stage": "warm", "done": done, "total": len(wanted), "detail": query.query[:40]})
            elif time.monotonic() - told > _LINE_S:
                told = time.monotonic()
                rate = done / (told - began)
                log.info("%d of %d, %.1f a second, %.0f s left", done, len(wanted), rate, (len(wanted) - done) / rate)

    together = min(len(wanted), 2 * config.search.concurrency * max(1, tool.keys))
    tasks = [asyncio.create_task(worker()) for _ in range(together)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if bars is not None:
            bars.stop()
    return outcomes


def _of_posts(posts: Iterable[Example]) -> Iterator[Wanted]:
    for post in posts:
        for entity in post.entities:
            for kind in SearchKind:
                yield Wanted(kind, entity.text, post.id)


def _of_run(path: Path) -> Iterator[Wanted]:
    for line, row in read_values(path):
        try:
            for turn in row["turns"]:
                kind = {"TextSearch": SearchKind.TEXT, "ImageSearch": SearchKind.IMAGE}.get(turn["action"])
                for result in turn["results"] or ():
                    if kind is not None:
                        yield Wanted(kind, str(result["query"]), str(row["example"]))
        except (TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{path}:{line}: is no row of a run's trajectories.jsonl ({error!r})") from error


def _without_repeats(wanted: Iterable[Wanted]) -> list[Wanted]:
    """Each query once, in order; which post asks first is all that is kept of the others."""
    first: dict[tuple[SearchKind, str], Wanted] = {}
    for query in wanted:
        first.setdefault((query.kind, normalised(query.query)), query)
    return list(first.values())


def _asked_person(text: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(f"{text}. Nobody is here to agree: give yes=true")
    sys.stderr.write(f"{text}. Go on? [y/N] ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")
