"""What every test shares: Hypothesis settings for a busy machine, the folder of material beside it, and one Ray."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

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
    import ray

    from actors.placement import init_ray

    folder = init_ray(num_cpus=16, python_path=Path(__file__).parents[1])
    try:
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # xdist looks for the mark in this very hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the heavy tests in one process, one after another, however many there are: they would starve each other."""
    for item in items:
        if item.get_closest_marker("integration") is not None:
            item.add_marker(pytest.mark.xdist_group("integration"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud that a green run has not shown parity with the released code, where it has not."""
    unseen = [report for report in terminalreporter.stats.get("skipped", []) if _ABSENT in str(report.longrepr)]
    if unseen:
        line = (
            f"GOLDEN PARITY WAS NOT CHECKED: {len(unseen)} tests were skipped, as there is {_ABSENT.partition(':')[0]}"
        )
        terminalreporter.write_line(line, red=True, bold=True)
