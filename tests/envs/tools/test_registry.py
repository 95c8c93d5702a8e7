"""`make_tool`: settings become the tool they name, or an error that names the setting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from envs.tools.local import LocalSearchTool
from envs.tools.local_index import SOURCE_NAME
from envs.tools.offline import OfflineSearchTool
from envs.tools.registry import make_tool


@dataclass(frozen=True)
class Settings:
    provider: str = "local"
    cache: str = ""
    root: str = ""
    matching: str = "strict"
    threshold: float = 0.6
    images_per_query: int = 1
    max_chars: int = 100


def test_each_provider_gives_its_tool(tmp_path: Path) -> None:
    (tmp_path / "text_search").mkdir()
    (tmp_path / SOURCE_NAME).write_text('{"title": "a", "text": "b"}')
    assert isinstance(make_tool(Settings("offline", cache=str(tmp_path))), OfflineSearchTool)
    assert isinstance(make_tool(Settings(root=str(tmp_path))), LocalSearchTool)
    assert isinstance(make_tool(Settings(), default_root=str(tmp_path)), LocalSearchTool)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings("offline"), r"needs search\.cache"),
        (Settings("local"), r"needs search\.root"),
        (Settings("web"), r"search\.provider='web'"),
    ],
)
def test_impossible_settings_are_refused(settings: Settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_tool(settings)
