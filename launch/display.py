"""What a running job shows people: one line a step in its log, and `progress.json` for progress bars.

Knows nothing of training. Always holds: `progress.json` is replaced whole, so a reader never sees half
of it; a run whose output is not a terminal writes lines only.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger(__name__)
PROGRESS = "progress.json"
_LINE_S = 15.0
_SHOWN = (
    ("reward", "reward/total"),
    ("F1", "reward/gmner_f1"),
    ("search unk", "search/on_unknown"),
    ("known", "search/on_known"),
    ("KL", "train/kl"),
    ("held-out F1", "eval/gmner_f1"),
    ("unseen", "eval/gmner_f1_unseen"),
)


class RunDisplay:
    """Receives what happens in a run; writes lines, `progress.json`, and bars where there is a terminal."""

    def __init__(self, run_dir: Path, total_steps: int) -> None:
        self._path = run_dir / PROGRESS
        self._total = total_steps
        self._bars = ProgressBars() if sys.stderr.isatty() else None
        self._begun: dict[str, tuple[float, int, float]] = {}
        self._state: dict[str, Any] = {"stage": "start", "began": time.time()}

    def cold_start(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """A supervised step has ended; step 0 is the held-out loss before the first."""
        names = (("loss", "train/loss"), ("held-out loss", "eval/loss"))
        detail = ", ".join(f"{name} {metrics[key]:.4f}" for name, key in names if key in metrics)
        self._set(stage="cold start", done=step, total=total, detail=detail)
        if step % 50 == 0 or step == total:
            log.info("cold start %d/%d: %s", step, total, detail)

    def progress(self, stage: str, done: int, total: int, what: str) -> None:
        """Part of a stage's work is done: `done` of `total` `what`; a line every few seconds says how fast."""
        began, first, told = self._begun.setdefault(stage, (time.monotonic(), done, time.monotonic()))
        self._set(stage=stage, done=done, total=total, detail=what)
        now = time.monotonic()
        if done < total and now - told < _LINE_S:
            return
        self._begun[stage] = (began, first, now)
        rate = (done - first) / max(now - began, 1e-9)
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
        log.info("%s: %d of %d %s, %.1f a second%s", stage, done, total, what, rate, left)

    def phase(self, step: int, name: str) -> None:
        """A phase of a training step begins."""
        self._set(stage="RL", done=step - 1, total=self._total, detail=name)

    def group_done(self, done: int, total: int) -> None:
        """A group of the step has been scored."""
        self._set(detail=f"rollout {done}/{total} groups")

    def evaluated(self, done: int, total: int) -> None:
        """A held-out post has been answered."""
        self._set(detail=f"evaluation {done}/{total} posts")

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A training step has ended."""
        parts = [f"{name} {metrics[key]:.3f}" for name, key in _SHOWN if key in metrics]
        log.info("step %d/%d  %s  (%.1f s)", step, self._total, "  ".join(parts), metrics["time/step_s"])
        self._set(stage="RL", done=step, total=self._total, detail=" ".join(parts[:2]))

    def close(self, stage: str) -> None:
        """The run has ended."""
        self._set(stage=stage, detail="")
        if self._bars is not None:
            self._bars.stop()

    def _set(self, **changes: Any) -> None:
        self._state |= changes
        scratch = self._path.with_suffix(".tmp")
        scratch.write_text(json.dumps(self._state))
        os.replace(scratch, self._path)
        if self._bars is not None:
            self._bars.show(self._state)


class ProgressBars:
    """One bar a stage, drawn from what `progress.json` says."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, Any] = {}
        self._progress.start()

    def show(self, state: Mapping[str, Any]) -> None:
        """Draw a state."""
        if "total" not in state:
            return
        stage = state["stage"]
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=state["total"], detail="")
        self._progress.update(
            self._tasks[stage], completed=state["done"], total=state["total"], detail=state.get("detail", "")
        )

    def stop(self) -> None:
        """Leave the bars as they are."""
        self._progress.stop()
