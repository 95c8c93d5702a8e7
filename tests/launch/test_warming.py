"""Warming asks for what is not kept yet, within what was agreed to; what it asked costs a run nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from envs.tools.local import LocalSearchTool
from envs.tools.local_index import Article, build_local_index
from envs.tools.search_server import SearchServer, serving
from launch.search import main
from launch.warming import Wanted, warm
from launch.words import UsageError
from sake_ray.config.load import resolve
from sake_ray.types import SearchKind

NAMES = ("Ada", "Turing", "Nobody")
WANTED = [Wanted(SearchKind.TEXT, name, f"17_{n}") for n, name in enumerate(NAMES)]


async def test_it_asks_once_and_only_what_was_agreed_to(tmp_path: Path) -> None:
    root = tmp_path / "folder"
    build_local_index(root, [Article(name, f"{name} is somebody.") for name in NAMES[:2]])
    server = SearchServer(LocalSearchTool(root), root)
    asked: list[str] = []

    def agree(text: str) -> bool:
        asked.append(text)
        return len(asked) > 1

    async with serving(server):
        words = ["search.provider=searxng", f"search.endpoint={server.url}", f"search.cache_dir={tmp_path / 'cache'}"]
        config = resolve([*words, "search.per_second=100", "search.cost_per_call=0.5"], job="warm")
        with pytest.raises(UsageError, match="nothing was asked"):
            await warm(config, WANTED, agreed=False, ask=agree)
        assert server.requests == 0 and "3 requests to send, about 1.50" in asked[0]
        await warm(config, WANTED[:2], agreed=False, ask=agree)
        assert server.requests == 2
        await warm(config, WANTED, agreed=True)
        await warm(config, WANTED, agreed=False)
        assert server.requests == 3, "what is kept is not asked again, and needs nobody's consent"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search.provider=local"], "no service on the web"),
        (["search.provider=serper", "search.cache=read_only"], "warming writes the cache"),
        (["search.provider=serper"], "SERPER_API_KEY"),
        (["search.provider=searxng", "search.endpoint=http://127.0.0.1:1"], "give yes=true"),
        (["kinds=sound"], "sound"),
        (["off=x"], "did you mean 'of'"),
    ],
)
def test_what_cannot_be_is_a_sentence_and_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str
) -> None:
    run = tmp_path / "trajectories.jsonl"
    results = [{"query": "Ada", "status": "success"}]
    run.write_text(json.dumps({"example": "17_1", "turns": [{"action": "TextSearch", "results": results}]}) + "\n")
    assert main(["warm", f"of={run}", f"search.cache_dir={tmp_path / 'cache'}", *words]) == 2
    assert message in capsys.readouterr().err
