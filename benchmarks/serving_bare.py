"""The arm of `benchmarks/serving.py` without the service: vLLM's `AsyncLLM`, given the requests of the service's turns.

Plays each post's episode once, untimed, to learn its turns: prompts, pictures, sampling parameters. Then empties its
caches and, for each line `CLIENTS FIRST COUNT` on standard input, has vLLM answer the requests of those posts again,
which gives the same tokens but where two were equally likely. Run by that script alone.
Always holds: each line is answered by one line on standard output that begins with `BARE `.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from actors.placement import Resources, engine_env, process_env

if __name__ == "__main__":
    os.environ.update(process_env(Resources()) | engine_env(Resources()))

import base64
from collections.abc import Sequence
from contextvars import ContextVar

import psutil

from actors.play import Play
from actors.rollout_actor import build_worker
from actors.vllm_engine import VllmEngine
from benchmarks.script import words_or_exit
from envs.fetch.picture import prepare_picture
from envs.tools.base import ToolClient
from envs.tools.local import LocalSearchTool
from envs.tools.local_index import ensure_local_index
from launch.model_source import find_model
from launch.serving import data_root, policy_card, policy_config, served_settings
from sake_ray.types import Example, ImageRef

_POST: ContextVar[int] = ContextVar("post")
"""Whose episode a task plays."""
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Turn:
    """What one turn asked of the engine, and the tokens it gave."""

    prompt: dict[str, Any]
    sampling: Any
    ids: tuple[int, ...]


async def main(words: dict[str, str], posts: Sequence[dict[str, str]]) -> None:
    """Learn the turns, then measure as told."""
    with tempfile.TemporaryDirectory(prefix="bare-") as made:
        source = find_model(words["model"])
        given = words["settings"].split()
        config = policy_config(source, [*given, f"run.dir={Path(made) / 'run'}"])
        settings = served_settings(config, policy_card(source, "a", Path(made)).folder)
        root = data_root(config)
        ensure_local_index(root)
        worker = build_worker("bare", settings, ToolClient(LocalSearchTool(root)))
        await worker.start()
        engine = worker._engine
        assert isinstance(engine, VllmEngine)
        turns = _recorded(engine)
        free = asyncio.Semaphore(64)

        async def learn(number: int, post: dict[str, str]) -> None:
            picture = prepare_picture(base64.b64decode(post["image"]), max_pixels=settings.max_pixels, lossless=True)
            image = ImageRef("", picture.width, picture.height, data=picture.data)
            example = Example(str(number), post["text"], image, ())
            async with free:
                _POST.set(number)
                await worker.play(example, Play(0, settings.limits, 0.0), str(number))

        await asyncio.gather(*(learn(number, post) for number, post in enumerate(posts)))
        await engine._engine.reset_prefix_cache()
        await engine._engine.reset_mm_cache()
        await engine._engine.reset_encoder_cache()
        _tell({"learned": len(turns)})
        while line := await asyncio.to_thread(sys.stdin.readline):
            clients, first, count = map(int, line.split())
            _tell(await _all(engine._engine, [turns[first + at] for at in range(count)], clients))
        await worker.shutdown()


def _tell(what: dict[str, Any]) -> None:
    sys.stdout.write(f"BARE {json.dumps(what)}\n")
    sys.stdout.flush()


def _recorded(engine: VllmEngine) -> dict[int, list[Turn]]:
    """The turns of each post, filled as its episode is played."""
    turns: dict[int, list[Turn]] = {}
    outputs = engine._outputs

    async def recording(prompt: dict[str, Any], sampling: Any, heard: Any) -> Any:
        output, piece = await outputs(prompt, sampling, heard)
        turns.setdefault(_POST.get(), []).append(Turn(prompt, sampling, tuple(piece.token_ids)))
        return output, piece

    engine._outputs = recording  # type: ignore[method-assign]
    return turns


async def _all(engine: Any, episodes: list[list[Turn]], clients: int) -> dict[str, Any]:
    """All episodes, by so many clients; a turn begins when the one before it has ended."""
    waiting = iter(episodes)
    took: list[float] = []
    tokens = differing = 0

    async def client() -> None:
        nonlocal tokens, differing
        for turns in waiting:
            began = time.perf_counter()
            for turn in turns:
                async for output in engine.generate(dict(turn.prompt), turn.sampling, f"bare-{next(_NUMBERS)}"):
                    ids = tuple(output.outputs[0].token_ids)
                tokens += len(ids)
                differing += ids != turn.ids
            took.append(time.perf_counter() - began)

    cpu, began = _cpu_s(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    took.sort()
    seconds, cpu = time.perf_counter() - began, _cpu_s() - cpu
    return {
        "requests": len(episodes),
        "seconds": seconds,
        "tokens": tokens,
        "differing": differing,
        "p50": took[len(took) // 2],
        "cpu_ms": 1e3 * cpu / len(episodes),
    }


def _cpu_s() -> float:
    """CPU seconds of this process and its children."""
    mine = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (mine, *mine.children(recursive=True)))


if __name__ == "__main__":
    KEYS = ("model", "posts", "settings")
    WORDS = {"settings": ""} | words_or_exit(sys.argv[1:], KEYS, __doc__, required=("model", "posts"))
    POSTS = [json.loads(line) for line in Path(WORDS["posts"]).read_text(encoding="utf-8").splitlines()]
    asyncio.run(main(WORDS, POSTS))
