"""`make_train.py` as a process of its own, and all that descends from it, found by a mark in the environment."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
MARK = "SAKE_RAY_TEST_MARK"


@dataclass
class MadeTrain:
    """A running `make train`."""

    process: subprocess.Popen[bytes]
    mark: str
    temporary: Path
    output: Path

    def descendants(self) -> list[psutil.Process]:
        """What it has started and is alive, in whatever session and under whatever parent."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                marked = process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE
                if marked and process.pid != self.process.pid:
                    found.append(process)
        return found

    def wait(self, reached: Callable[[], object], *, timeout_s: float = 400.0) -> None:
        """Wait until `reached()`.

        Raises:
            AssertionError: it ended before that, or it took too long; with the end of its output.
        """
        deadline = time.monotonic() + timeout_s
        while not reached():
            assert self.process.poll() is None and time.monotonic() < deadline, self.said()[-4000:]
            time.sleep(0.05)

    def signal(self, number: signal.Signals, *, timeout_s: float = 120.0) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def left_behind(self) -> list[str]:
        """Command lines of what is alive, and temporary folders that are there, a few seconds after the end."""
        deadline = time.monotonic() + 10
        while (alive := self.descendants()) and time.monotonic() < deadline:
            time.sleep(0.2)
        lines = []
        for process in alive:
            with contextlib.suppress(psutil.Error):
                lines.append(" ".join(process.cmdline())[:200])
        return lines + [str(path) for path in self.temporary.glob("sr-*")]

    def said(self) -> str:
        """Its output so far."""
        return self.output.read_text(errors="replace")


@contextlib.contextmanager
def make_train(*words: str) -> Iterator[MadeTrain]:
    """Run `make_train.py` with these settings; whatever it leaves behind is killed."""
    # Short, because Ray puts unix sockets below it.
    temporary = Path(tempfile.mkdtemp(prefix="mt-", dir="/tmp"))
    mark = uuid.uuid4().hex
    output = temporary / "output.txt"
    with output.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "launch/make_train.py", *words],
            cwd=ROOT,
            env=os.environ | {MARK: mark, "TMPDIR": str(temporary)},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
    made = MadeTrain(process, mark, temporary, output)
    try:
        yield made
    finally:
        for left in made.descendants():
            with contextlib.suppress(psutil.Error):
                left.kill()
        process.kill()
        process.wait()
        shutil.rmtree(temporary, ignore_errors=True)
