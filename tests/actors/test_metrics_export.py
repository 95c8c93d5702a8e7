"""An actor's numbers: shown again and again, and an export that broke is not silent."""

from __future__ import annotations

import asyncio
import logging

import pytest

from actors.metrics_export import Exporter
from actors.rollout_stats import WorkerStats


class Shown:
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.thrice = asyncio.Event()

    def show(self, stats: WorkerStats) -> None:
        self.tokens.append(stats.generated_tokens)
        if len(self.tokens) == 3:
            self.thrice.set()


async def test_numbers_are_shown_until_the_worker_stops() -> None:
    asked, shown = 0, Shown()

    async def ask() -> WorkerStats:
        nonlocal asked
        asked += 1
        return WorkerStats("rollout-0", 1, 0, 0, 0, 0, asked, 0, 0, 0, 0)

    exporter = Exporter(ask, shown, every_s=0.0)
    exporter.start()
    exporter.start()
    await asyncio.wait_for(shown.thrice.wait(), 5)
    assert shown.tokens[:3] == [1, 2, 3]
    exporter.stop()
    await asyncio.sleep(0)
    exporter.check()
    assert len(asyncio.all_tasks()) == 1


async def test_an_export_that_broke_is_told_with_its_traceback_and_fails_the_next_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def ask() -> WorkerStats:
        raise KeyError("kv_usage")

    exporter = Exporter(ask, Shown())
    exporter.check()
    exporter.start()
    with caplog.at_level(logging.ERROR):
        for _ in range(3):  # the export, its end, what is told of it
            await asyncio.sleep(0)
    assert "Traceback" in caplog.text and "kv_usage" in caplog.text
    with pytest.raises(RuntimeError, match="metrics broke"):
        exporter.check()
