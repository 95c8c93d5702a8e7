"""Episodes as a policy might really make them, for the tests that hold one way of scoring against another.

Texts are mostly well-formed, with every kind of slip now and then; gold has mentions of one text and type.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from hypothesis import strategies as st

from envs.episode import EpisodeLimits, run_episode
from sake_ray.trajectory import Trajectory
from sake_ray.types import Box, Entity, Example, ImageRef
from tests.envs.test_episode import PadCodec, PictureSearch, ScriptedPolicy

BOXES = [Box(40 * i, 0, 40 * i + 40, 60) for i in range(3)]
_types = st.sampled_from(["PER", "LOC"])


@st.composite
def gold_entities(draw: st.DrawFn) -> tuple[Entity, ...]:
    """Mentions, some of one text and type: what one of those shows, the next shows too or shows less of."""
    found = []
    for name in draw(st.lists(st.tuples(st.sampled_from(["Ada", "Rome"]), _types), unique=True, max_size=2)):
        found += [Entity(*name, tuple(BOXES[:count])) for count in draw(st.lists(st.integers(0, 3), max_size=3))]
    return tuple(draw(st.permutations(found)))


def mostly(usual: st.SearchStrategy[str], *odd: str) -> st.SearchStrategy[str]:
    return st.integers(0, 9).flatmap(lambda draw: st.sampled_from(odd) if draw == 0 else usual)


_claims = st.fixed_dictionaries(
    {
        "entity": st.sampled_from(["Ada", " ada", "Rome"]),
        "type": _types,
        "box2d": st.sampled_from([[], [0, 0, 20, 30], [20.5, 0, 40, 29.9]]),
    }
)
_answers = mostly(
    st.lists(_claims, min_size=1, max_size=4).map(json.dumps),
    *(f'[{{"entity": "Ada", "type": "PER", "box2d": {box}}}]' for box in ("[1e9, 0, 1, 1]", "[1]", "null", "[NaN]")),
    '[{"entity": " ", "type": "PER", "box2d": []}]', '[{"entity": "Ada"}]', "[]", "{}", "[",
)  # fmt: skip
_queries = mostly(
    st.sampled_from(['[{"query": "a"}]', '["Ada"]', '[{"q": "a"}]']),
    '[{"query": " "}]', "[]", '"a"', '["a", "b", "c", "d", "e", "f"]', '[{"query": 1}]',
)  # fmt: skip


def turn(tag: str) -> st.SearchStrategy[str]:
    body = _answers if tag == "answer" else _queries
    reason = mostly(st.just("<reason>r</reason>"), "", "so <reason>r</reason>", "<reason>r", "<reason>r</reason>" * 2)
    words = mostly(st.just(""), " so ", "<answer>[]</answer>", '<text_search>["b"]</text_search>')
    end = mostly(st.just(""), "\n", "done", "<answer>[]</answer>")
    return st.builds(lambda r, w, b, e: f"{r}{w}<{tag}>{b}</{tag}>{e}", reason, words, body, end)


_searches = st.lists(st.sampled_from(["text_search", "image_search"]), max_size=2)
episode_texts = _searches.flatmap(lambda tags: st.tuples(*map(turn, [*tags, "answer", "answer", "answer"][:3])))


def played(
    texts: Sequence[str], entities: tuple[Entity, ...], room: int = 60, limits: EpisodeLimits | None = None
) -> Trajectory:
    """The episode of a policy that says `texts`, run by the environment; observations take `room` tokens of 2,000."""
    return asyncio.run(
        run_episode(
            Example("post", "words", ImageRef("", 200, 200), entities),
            policy=ScriptedPolicy(*texts),
            codec=PadCodec(answer=room),
            search=PictureSearch(),
            limits=limits or EpisodeLimits(max_tokens=2_000),
            seed=0,
            trajectory_id="t",
        )
    )
