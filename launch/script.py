"""What the entry scripts of single stages share: settings in, Ray up, the work run, everything down again.

Knows nothing of what a stage does. Always holds: Ctrl-C and `ray job stop` end the work where it stands, with status
130 (a stage keeps what it has made, so the same command goes on from there); bad settings and bad data end it with
one sentence and status 2.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.placement import joined_ray
from launch.display import RunDisplay
from launch.search_tool import check_search
from sake_ray.coldstart.stage_folder import held
from sake_ray.coldstart.teaching import TeacherRefused
from sake_ray.config.cli import config_or_exit
from sake_ray.config.config import Config
from sake_ray.config.plan import describe_plan, totals
from sake_ray.config.values import ConfigError
from sake_ray.data.images import ImageError
from sake_ray.data.problems import DataError
from sake_ray.prompts import PromptError

log = logging.getLogger(__name__)
STOPPED = 130
REFUSED = 2

Work = Callable[[Config, Path, RunDisplay], Awaitable[None]]
"""A stage: settings, run folder, display."""


def run_stage(
    job: str, work: Work, argv: Sequence[str], defaults: Mapping[str, Any] | None = None, *, cluster: bool = True
) -> int:
    """Run a stage as a job of its own; returns the exit status. `cluster` false: without Ray."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", datefmt="%H:%M:%S")
    for noisy in ("httpx", "httpx2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    config = config_or_exit(argv, job=job, defaults=defaults)
    try:
        if "search" in {row.actor for row in describe_plan(config)}:
            check_search(config)
        cpus, _ = totals(describe_plan(config))
        with joined_ray(max(2, round(cpus + 0.5))) if cluster else contextlib.nullcontext():
            return asyncio.run(_until_stopped(config, work))
    except (ConfigError, DataError, ImageError, PromptError, TeacherRefused) as error:  # the process boundary
        sys.stderr.write(f"{job}: {error}\n")
        return REFUSED


async def _until_stopped(config: Config, work: Work) -> int:
    run_dir = config.run_dir.resolve()
    with held(run_dir):
        (run_dir / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")
        display = RunDisplay(run_dir, total_steps=0)
        task = asyncio.ensure_future(work(config, run_dir, display))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task
            display.close("done")
            return 0
        log.info("stopped; the same command goes on from there")
        display.close("stopped")
        return STOPPED
