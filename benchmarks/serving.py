"""What the service itself costs: the same tokens from bare vLLM and through the service, and a long run of it.

    python benchmarks/serving.py model=RUN_OR_POLICY|large [clients=1,8,64] [requests=60,240,640] [slices=6]
                                 [proxy=haproxy|python] [out=FILE]
    python benchmarks/serving.py model=RUN_OR_POLICY soak=10000 [clients=32]

Each post is asked for once: its picture is sent with it, its episode is played, its answer is read. Bare vLLM (a
process of its own, `benchmarks/serving_bare.py`) is given the requests of those very turns, by as many clients, each of
which waits for a turn before it asks for the next; no parsing, no search, no HTTP. Both are up all the time and take
turns every few seconds, with the same posts: a shared machine is slower in one minute than in the next, so a ratio is
that of two neighbours. What the service takes when nobody asks counts against bare vLLM. The clients run in this
process and share the machine with the service, which bare vLLM's do not have to: their CPU time is told. `large` is the
random model of some 90 million parameters of `benchmarks/weight_sync.py`, with the settings of `mini`: it seldom ends a
turn and never searches. The long run is `benchmarks/serving_soak.py`.
Always holds: a request that fails ends the script, unless it was sent to fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.script import words_or_exit
from benchmarks.service_process import LARGE, ROOT, Post, Running, make_posts, service, settings_of
from benchmarks.serving_soak import long_run
from benchmarks.tables import markdown, spread
from benchmarks.weight_sync import make_large_model

WARM = 32
PERCENTILES = (50, 95, 99)


def main(arguments: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    words = {
        "model": "",
        "clients": "",
        "requests": "60,240,640",
        "slices": "6",
        "soak": "0",
        "out": "",
        "proxy": "haproxy",
    }
    words |= words_or_exit(arguments, words, __doc__, required=("model",))
    soak = int(words["soak"])
    clients = [int(each) for each in (words["clients"] or ("32" if soak else "1,8,64")).split(",")]
    requests = [int(each) for each in words["requests"].split(",")]
    with tempfile.TemporaryDirectory(prefix="serving-") as made:
        folder = Path(made)
        # Enough posts that nobody is helped by a prompt that was there before.
        posts = make_posts(folder, soak or sum(requests) + WARM)
        if words["model"] == LARGE:
            words["model"] = str(make_large_model(folder / LARGE))
        if soak:
            with service(words["model"], folder, words["proxy"]) as running:
                sys.stdout.write(asyncio.run(long_run(running, posts, clients[0])))
            return 0
        text = compare(words["model"], folder, posts, clients, requests, int(words["slices"]), words["proxy"])
    sys.stdout.write(text)
    if words["out"]:
        Path(words["out"]).write_text(text, encoding="utf-8")
    return 0


class Bare:
    """Bare vLLM in a process of its own."""

    def __init__(self, model: str, folder: Path) -> None:
        script = str(ROOT / "benchmarks" / "serving_bare.py")
        words = [f"model={model}", f"posts={folder / 'posts.jsonl'}", f"settings={' '.join(settings_of(model))}"]
        self._log = folder / "bare.log"
        with self._log.open("w") as sink:
            self._process = subprocess.Popen(
                [sys.executable, script, *words],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, text=True,
            )  # fmt: skip
        self._answer()

    def ask(self, clients: int, first: int, count: int) -> dict[str, Any]:
        """Have it answer the requests of `count` posts."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{clients} {first} {count}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _answer(self) -> dict[str, Any]:
        for line in self._process.stdout or ():
            if line.startswith("BARE "):
                found: dict[str, Any] = json.loads(line[5:])
                return found
        raise SystemExit(f"the bare arm failed:\n{self._log.read_text()[-3000:]}")


def compare(
    model: str,
    folder: Path,
    posts: Sequence[Post],
    clients: Sequence[int],
    requests: Sequence[int],
    slices: int,
    proxy: str,
) -> str:
    """The table of both arms."""
    bare = Bare(model, folder)
    with contextlib.closing(bare), service(model, folder, proxy) as running:
        rows = asyncio.run(_in_turns(bare, running, posts, clients, requests, slices))
    header = ["clients", "bare: requests/s", "served: requests/s", "served of bare", "what differs"]
    header += [*(f"served p{p}, s" for p in PERCENTILES), "bare p50, s"]
    header += ["CPU ms a request: bare", "served", "clients"]
    return markdown(header, rows)


async def _in_turns(
    bare: Bare,
    running: Running,
    posts: Sequence[Post],
    clients: Sequence[int],
    requests: Sequence[int],
    slices: int,
) -> list[list[str]]:
    rows = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.to_thread(bare.ask, 8, 0, WARM)
        await _all(session, running, posts[:WARM], 8)
        first = WARM
        for count, total in zip(clients, requests, strict=True):
            pairs = []
            for number in range(slices):
                size = total // slices

                async def served(first: int = first, size: int = size, count: int = count) -> dict[str, Any]:
                    return await _all(session, running, posts[first : first + size], count)

                if number % 2 == 0:
                    without = await asyncio.to_thread(bare.ask, count, first, size)
                    pairs.append((without, await served()))
                else:
                    found = await served()
                    pairs.append((await asyncio.to_thread(bare.ask, count, first, size), found))
                first += size
                _progress(count, *pairs[-1])
            rows.append(_row(count, [each for each, _ in pairs], [each for _, each in pairs]))
    return rows


def _progress(count: int, bare: dict[str, Any], served: dict[str, Any]) -> None:
    shown = {name: value for name, value in served.items() if name != "took"}
    sys.stderr.write(f"{count} clients: {bare['seconds'] / served['seconds']:.2f} bare {bare} served {shown}\n")


def _row(count: int, bare: Sequence[dict[str, Any]], served: Sequence[dict[str, Any]]) -> list[str]:
    share = [b["seconds"] / s["seconds"] for s, b in zip(served, bare, strict=True)]
    took = [seconds for s in served for seconds in s["took"]]
    fewer = sum(s["tokens"] for s in served) - sum(b["tokens"] for b in bare)
    cuts = statistics.quantiles(took, n=100, method="inclusive")
    return [
        str(count),
        spread([b["requests"] / b["seconds"] for b in bare], 1),
        spread([s["requests"] / s["seconds"] for s in served], 1),
        spread(share),
        f"{sum(b['differing'] for b in bare)} turns, {fewer:+} tokens",
        *(f"{cuts[p - 1]:.2f}" for p in PERCENTILES),
        spread([b["p50"] for b in bare]),
        spread([b["cpu_ms"] for b in bare], 1),
        spread([s["cpu_ms"] for s in served], 1),
        spread([s["client_cpu_ms"] for s in served], 1),
    ]


async def _all(session: aiohttp.ClientSession, running: Running, posts: Sequence[Post], clients: int) -> dict[str, Any]:
    """All posts, by so many clients that each wait for an answer before they ask again."""
    waiting = iter(posts)
    took: list[float] = []
    tokens = 0

    async def client() -> None:
        nonlocal tokens
        for post in waiting:
            began = time.perf_counter()
            async with session.post(f"{running.url}/v1/extract", json=post) as response:
                body = await response.json()
                if response.status != 200:
                    raise SystemExit(f"a request got {response.status}: {body}")
            took.append(time.perf_counter() - began)
            tokens += body["usage"]["generated_tokens"]

    used, cpu, began = running.cpu_s(), time.process_time(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    seconds, cpu, used = time.perf_counter() - began, time.process_time() - cpu, running.cpu_s() - used
    return {
        "requests": len(posts),
        "seconds": seconds,
        "tokens": tokens,
        "client_cpu_ms": 1e3 * cpu / len(posts),
        "cpu_ms": 1e3 * used / len(posts),
        "took": took,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
