"""`make_tool`: settings become the tool they name, or an error that names the setting."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from envs.tools import registry
from envs.tools.local import LocalSearchTool
from envs.tools.local_index import SOURCE_NAME
from envs.tools.offline import OfflineSearchTool
from envs.tools.registry import ENTRY_POINTS, is_web, known_providers, make_tool, provider_class
from envs.tools.serper import Serper


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


class Wiki(Serper):
    """Somebody else's provider."""

    NAME = "wiki"


class Whole:
    """Somebody else's whole tool."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Whole:
        return cls()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two packages' entry points, one of which cannot be loaded."""
    here = __name__
    points = EntryPoints(
        EntryPoint(name, value, ENTRY_POINTS)
        for name, value in (("wiki", f"{here}:Wiki"), ("whole", f"{here}:Whole"), ("broken", f"{here}:Gone"))
    )
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **params: points.select(**params))
    assert here in sys.modules
    registry._installed.cache_clear()
    yield
    registry._installed.cache_clear()


def test_a_provider_that_is_installed_is_found_by_its_name(installed: None) -> None:
    assert is_web("serper") and is_web("wiki") and not is_web("whole") and not is_web("local")
    assert provider_class("wiki").NAME == "wiki"
    assert isinstance(make_tool(Settings("whole")), Whole)
    assert known_providers() == ("local", "offline", "serper", "searxng", "broken", "whole", "wiki")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wikki", r"must be one of local, .*, wiki \(did you mean wiki\?\)"),
        ("whole", "no service on the web"),
        ("local", "no service on the web"),
        ("broken", "cannot be loaded"),
    ],
)
def test_a_name_that_is_no_service_on_the_web_is_refused(installed: None, name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        provider_class(name)


def test_a_service_on_the_web_is_not_made_without_limits() -> None:
    with pytest.raises(ValueError, match="needs limits"):
        make_tool(Settings("serper"))


def test_the_cache_mode_of_the_web_is_no_folder_of_the_released_cache() -> None:
    with pytest.raises(ValueError, match=r"needs search\.cache=FOLDER"):
        make_tool(Settings("offline", cache="on"))
