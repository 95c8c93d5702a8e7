"""What every test shares: Hypothesis settings for a busy machine, the folder of material beside it, and one Ray."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# No deadline: on a shared machine a slow example says nothing about the code.
settings.register_profile("project", deadline=None, max_examples=100)
settings.register_profile("fast", deadline=None, max_examples=20)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "project"))

_SHARED = Path(__file__).parents[1] / ".." / "shared"
_ABSENT = "no folder ../shared beside the project: golden vectors and real data are not at hand"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the project (golden vectors, data); the test is skipped where it is absent."""
    if not _SHARED.is_dir():
        pytest.skip(_ABSENT)
    return _SHARED.resolve()


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A local Ray with more cores than the machine has, so that every pool of a test fits; one for all tests."""
    from actors.placement import joined_ray

    with joined_ray(16, python_path=Path(__file__).parents[1]):
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud that a green run has not shown parity with the released code, where it has not."""
    unseen = [report for report in terminalreporter.stats.get("skipped", []) if _ABSENT in str(report.longrepr)]
    if unseen:
        line = (
            f"GOLDEN PARITY WAS NOT CHECKED: {len(unseen)} tests were skipped, as there is {_ABSENT.partition(':')[0]}"
        )
        terminalreporter.write_line(line, red=True, bold=True)


class HeavyTogether(LoadScopeScheduling):
    """Files that start Ray or vLLM run in one process, one after another: side by side they starve each other.

    Measured on two cores: with two such processes every test took over twice its time. (xdist's own `--dist loadgroup`
    groups nothing under pytest 9.2, which names its tests in another way.)
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "heavy" if _is_heavy(self.config.rootpath / file) else file


@functools.cache
def _is_heavy(file: Path) -> bool:
    return "pytest.mark.integration" in file.read_text(encoding="utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> HeavyTogether:
    """How `pytest -n` shares the tests out."""
    return HeavyTogether(config, log)
