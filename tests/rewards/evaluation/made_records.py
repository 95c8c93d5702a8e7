"""Records made for tests: by hand, and by Hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from rewards.entities import Claim
from rewards.evaluation.records import GoldEntity, PostRecord, SearchRecord, TurnRecord
from sake_ray.data.boxes import Quad

A: Quad = (0, 0, 10, 10)
NEAR: Quad = (0, 0, 10, 12)
B: Quad = (20, 0, 30, 10)
FAR: Quad = (500, 500, 600, 600)


def gold(
    text: str, kind: str = "PER", *boxes: Quad, difficulty: str | None = None, hits: int | None = None
) -> GoldEntity:
    """A gold entity; `hits` are of 4 samples."""
    return GoldEntity(text, kind, boxes, difficulty=difficulty, hits=hits, samples=None if hits is None else 4)


def claim(text: str, kind: str = "PER", box: Quad | None = None) -> Claim:
    """A claim."""
    return Claim(text, kind, box)


def post(
    name: str, golds: list[GoldEntity], claims: list[Claim], *kinds: str, sample: int = 0, tokens: int = 10
) -> PostRecord:
    """A record of an episode with one answered search of each kind, then an answer."""
    turns = tuple(
        TurnRecord("<reason>…", f"{kind.title()}Search", (SearchRecord(kind, "who?", "success", "them"),), 1.0, 0.5)
        for kind in kinds
    )
    return PostRecord(
        name,
        f"text of {name}",
        tuple(golds),
        tuple(claims),
        sample=sample,
        turns=(*turns, TurnRecord("<reason>…", "Answer", (), 1.0)),
        stop_reason="answer",
        tokens=tokens,
        sampled_tokens=tokens // 2,
        seconds=1.0 + 1.5 * len(turns),
    )


_TEXTS = st.sampled_from(["Ada", "ada ", "Ada Bo", "Bo", "Bo Cy", "Zed", ""])
_TYPES = st.sampled_from(["PER", "ORG"])
_BOXES = st.sampled_from([None, A, NEAR, B, FAR])
CLAIMS = st.lists(st.builds(Claim, _TEXTS, _TYPES, _BOXES), max_size=6)
GOLDS = st.lists(
    st.builds(
        GoldEntity,
        _TEXTS,
        _TYPES,
        st.sampled_from([(), (A,), (B,), (A, B)]),
        difficulty=st.sampled_from(["known", "ambiguous", "unknown", None]),
    ),
    max_size=6,
)
RECORDS = st.lists(st.tuples(GOLDS, CLAIMS), min_size=1, max_size=5).map(
    lambda drawn: [post(str(at), golds, claims) for at, (golds, claims) in enumerate(drawn)]
)
