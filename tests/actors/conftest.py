"""A local Ray for the tests of this folder: started once, when the first of them asks for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """Ray with more cores than the machine has, so that every pool of a test fits."""
    import ray

    from actors.placement import init_ray

    folder = init_ray(num_cpus=16, python_path=ROOT)
    try:
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
