"""A job is refused before it starts where no search tool can be made; one that may ask no more ends with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from envs.tools.web_tool import SearchSpent
from launch.search_tool import check_search, spent
from sake_ray.config.load import resolve
from sake_ray.config.values import ConfigError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search.provider=serpr"], r"serpr.*serper"),
        (["search.provider=searxng"], r"search\.endpoint=URL"),
        (["search.provider=searxng", "search.endpoint=ftp://x"], r"search\.endpoint: must be http"),
        (["search.provider=serper"], "SERPER_API_KEY"),
        (["search.provider=serper", "search.key_file=/nowhere/keys"], "/nowhere/keys"),
        (["search.provider=serper", "search.cache=/some/folder"], r"search\.cache='/some/folder'"),
        (["search.provider=serper", "search.cache=read_only", "search.cache_dir=/nowhere"], "/nowhere"),
        (["search.provider=serper", "search.summary=llm"], r"search\.summary_endpoint"),
        (["search.provider=serper", "search.daily_budget=5"], r"search\.cost_per_call=0"),
    ],
)
def test_settings_without_a_tool_are_refused_early(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERPER_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=message):
        check_search(resolve(words, job="rl"))


def test_settings_with_a_tool_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERPER_API_KEY", "0123456789abcdef")
    monkeypatch.chdir(tmp_path)
    for words in ([], ["search.provider=serper"], ["search.provider=searxng", "search.endpoint=http://host:8080"]):
        check_search(resolve(words, job="rl"))
    assert list(tmp_path.iterdir()) == [], "looking at settings makes nothing"


def test_the_sentence_is_found_however_the_error_was_wrapped() -> None:
    class FromAnActor(RuntimeError):
        def __init__(self, cause: BaseException) -> None:
            super().__init__("a long traceback")
            self.cause = cause

    inner = FromAnActor(FromAnActor(SearchSpent("the daily budget is spent")))
    assert spent(ExceptionGroup("a", [ValueError("b"), ExceptionGroup("c", [inner])])) == "the daily budget is spent"
    assert spent(ExceptionGroup("a", [ValueError("b")])) is None
