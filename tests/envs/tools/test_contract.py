"""The contract check finds what is wrong with a provider; `test_providers` shows that ours pass."""

from __future__ import annotations

from typing import Any

import pytest

from envs.tools.contract import ContractBroken, check_provider, main
from envs.tools.provider import ImageHits, ProviderError, Snippet, TextHits
from envs.tools.serper import Serper


class Raises(Serper):
    async def text(self, query: str) -> TextHits:
        body = await self._post("search", query, 1)
        return TextHits(tuple(Snippet(row["title"], row["snippet"]) for row in body["organic"]))


class Unbounded(Serper):
    async def images(self, query: str) -> ImageHits:
        body = await self._post("images", query, 1)
        found = body.get("images")
        return ImageHits(tuple(str(url) for url in found) if isinstance(found, list) else ())


class Swallows(Serper):
    async def text(self, query: str) -> TextHits:
        try:
            return await super().text(query)
        except ProviderError:
            return TextHits()


class InTheAddress(Serper):
    async def text(self, query: str) -> TextHits:
        await self._api.get_json(f"{self._settings.endpoint}/search?q={query}", {})
        return TextHits()


class Elsewhere(Serper):
    async def text(self, query: str) -> TextHits:
        await self._api.get_json("https://elsewhere.example", {"q": query})
        return TextHits()


class Rewords(Serper):
    async def text(self, query: str) -> TextHits:
        return await super().text(query.replace('"', ""))


class Keyless(Serper):
    async def text(self, query: str) -> TextHits:
        await self._api.get_json(self._settings.endpoint, {"q": query})
        return TextHits()


class Judges(Serper):
    @staticmethod
    def judge(status: int, body: Any) -> Any:
        return "spent" if status == 402 else None


class Nameless(Serper):
    NAME = ""


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (Raises, "raised KeyError"),
        (Unbounded, "were asked for|http or https|empty"),
        (Swallows, "let it through"),
        (InTheAddress, "not into the address"),
        (Elsewhere, r"settings\.endpoint"),
        (Rewords, "no parameter is the query"),
        (Keyless, "no header ever holds the key"),
        (Judges, "must be a Failure"),
        (Nameless, "NAME"),
    ],
)
async def test_what_is_wrong_is_found(cls: type[Serper], words: str) -> None:
    with pytest.raises(ContractBroken, match=words):
        await check_provider(cls, tries=60)


@pytest.mark.parametrize(("words", "status"), [(["serper"], 0), (["local"], 2), (["nope"], 2), ([], 2)])
def test_the_command(words: list[str], status: int) -> None:
    assert main(words) == status
