"""What every test shares: Hypothesis settings for a busy machine, and the folder of material beside the project."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# No deadline: on a shared machine a slow example says nothing about the code.
settings.register_profile("project", deadline=None, max_examples=100)
settings.load_profile("project")

_SHARED = Path(__file__).parents[1] / ".." / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the project (golden vectors, data); the test is skipped where it is absent."""
    if not _SHARED.is_dir():
        pytest.skip("no folder ../shared beside the project: golden vectors and real data are not at hand")
    return _SHARED.resolve()
