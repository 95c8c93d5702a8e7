"""Which pictures are chosen: by their order alone, whoever comes first."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from envs.fetch.refusal import FetchReason, FetchRefused
from envs.search_counts import SearchCounts
from envs.tools.provider import ImageHits
from envs.tools.web_pictures import PictureGatherer


@dataclass(frozen=True)
class Fake:
    data: bytes
    suffix: str = ".jpg"
    width: int = 1
    height: int = 1


class Net:
    """Addresses are `NAME.PICTURE`; picture "x" cannot be had. Each takes as many turns of the loop as it is told."""

    def __init__(self, turns: dict[str, int]) -> None:
        self._turns = turns
        self.fetched: list[str] = []

    async def fetch(self, url: str) -> bytes:
        self.fetched.append(url)
        for _ in range(self._turns.get(url, 0)):
            await asyncio.sleep(0)
        picture = url.partition(".")[2]
        if picture == "x":
            raise FetchRefused(FetchReason.STATUS, "gone")
        return picture.encode()


async def prepared(data: bytes) -> Fake:
    return Fake(data)


@given(
    urls=st.lists(st.sampled_from([f"{name}.{picture}" for name in "abc" for picture in "12x"]), max_size=7),
    graph=st.sampled_from(["", "g.1", "g.x", "g.9"]),
    limit=st.integers(0, 3),
    turns=st.dictionaries(st.sampled_from([f"{n}.{p}" for n in "abcg" for p in "129x"]), st.integers(0, 6)),
)
def test_speed_has_no_say(urls: list[str], graph: str, limit: int, turns: dict[str, int]) -> None:
    net, meter = Net(turns), SearchCounts()
    gatherer = PictureGatherer(net, prepared, meter=meter)
    got = [each.data.decode() for each in asyncio.run(gatherer.gather(ImageHits(tuple(urls), graph), limit))]

    first = [graph[-1]] if graph and graph[-1] != "x" else []
    others = dict.fromkeys(url[-1] for url in urls if url[-1] != "x" and url[-1] not in first)
    assert got == first + list(others)[:limit]
    assert len(net.fetched) == len(set(net.fetched))
    assert meter.snapshot()["pictures"] + meter.snapshot().get("picture_status", 0) == len(net.fetched)
    if limit == 0:
        assert net.fetched == [graph] * bool(graph)
