"""What tests of the service's page share: a scripted service, and a picture's file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from sake_ray.data.miniworld import board_picture
from tests.sake_ray.pages.service.service_stub import BOARD, ServiceStub, serve


@pytest_asyncio.fixture(loop_scope="session")
async def stub() -> AsyncIterator[ServiceStub]:
    """A service as new."""
    async with serve(ServiceStub()) as serving:
        yield serving


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A board's picture, 84 pixels wide and high."""
    board_picture(BOARD).save(tmp_path / "board.png")
    return tmp_path / "board.png"
