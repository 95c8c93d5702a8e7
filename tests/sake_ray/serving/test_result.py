"""What a client is shown of an episode: boxes in its own pixels, who was searched for, and a result for every end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sake_ray.serving.messages import Order, PolicyCard
from sake_ray.serving.result import entities_shown, result_shown, search_shown, turn_shown
from sake_ray.trajectory import Segment, Trajectory, Turn
from sake_ray.types import (
    Answer,
    Completion,
    Example,
    ImageRef,
    ImageSearch,
    Malformed,
    Observation,
    PredictedEntity,
    QueryResult,
    SearchKind,
    StopReason,
    TextSearch,
)
from tests.envs.fetch import hostile_pictures as pictures

CARD = PolicyCard("a", "run/best_policy", "/somewhere/secret", "step-000020", 3)
Corners = tuple[float, float, float, float]


def order_of(text: str, source: tuple[int, int], sent: tuple[int, int]) -> Order:
    """`source` is the client's picture, `sent` what the engine was given."""
    example = Example("p", text, ImageRef("p.png", *sent), ())
    return Order("p", example, *source, seed=7, temperature=0.0, text_searches=1, image_searches=1, deadline_s=9.0)


def episode(order: Order, turns: list[Turn], stop: StopReason) -> Trajectory:
    trajectory = Trajectory("p", order.example)
    trajectory.append_observation(Segment((1,), (1, 1)))
    for turn in turns:
        trajectory.append_completion(Completion((5, 6), (-0.5, -0.5), turn.text, "stop", 3))
        trajectory.turns.append(turn)
    trajectory.finish(stop)
    return trajectory


def answer(*entities: tuple[str, Corners | None]) -> Turn:
    return Turn("…", Answer(tuple(PredictedEntity(text, "PER", box) for text, box in entities)))


def found(*queries: str) -> Observation:
    return Observation(SearchKind.TEXT, tuple(QueryResult(query, "success", "words") for query in queries), 0.25)


@pytest.mark.parametrize(
    ("source", "sent", "box", "shown"),
    [
        # 4,000 x 2,000 was sent as 1,000 x 500, and is seen so.
        ((4_000, 2_000), (1_000, 500), (10, 20, 500, 250), [40, 80, 2_000, 1_000]),
        # 40 x 20 is sent as it is, and is seen at 100 x 50.
        ((40, 20), (40, 20), (50, 25, 100, 50), [20, 10, 40, 20]),
        # Sent at half its size, then enlarged to 100 x 50.
        ((80, 40), (40, 20), (50, 25, 100, 50), [40, 20, 80, 40]),
        ((1_000, 500), (1_000, 500), (1, 2, 3, 4), [1, 2, 3, 4]),
    ],
)
def test_boxes_are_in_pixels_of_the_picture_as_the_client_has_it(
    source: tuple[int, int], sent: tuple[int, int], box: Corners, shown: list[int]
) -> None:
    order = order_of("Ada", source, sent)
    trajectory = episode(order, [answer(("Ada", box), ("Bo", None))], StopReason.ANSWER)
    entities = entities_shown(trajectory, order, min_pixels=5_000, max_pixels=500_000)
    assert [(entity["box"], entity["span"]) for entity in entities] == [(shown, [0, 3]), (None, None)]


@pytest.mark.parametrize(
    ("query", "name", "searched"),
    [
        ("who is ada lovelace?", "Ada Lovelace", True),
        ("Ada-Lovelace portrait", "ADA LOVELACE", True),
        ("Canada", "Ada", False),
        ("Lovelace, Ada", "Ada Lovelace", False),
        ("anything", "…", False),
        ("STRASSE 5", "Straße 5", True),
    ],
)
def test_an_entity_was_searched_when_a_query_names_it_in_whole_words(query: str, name: str, searched: bool) -> None:
    order = order_of("a post", (50, 50), (50, 50))
    turns = [Turn("…", TextSearch(("other", query)), found("other", query)), answer((name, None))]
    trajectory = episode(order, turns, StopReason.ANSWER)
    (entity,) = entities_shown(trajectory, order, min_pixels=1, max_pixels=10_000)
    assert entity["searched"] is searched


def test_a_search_that_was_not_made_names_nobody() -> None:
    order = order_of("a post", (50, 50), (50, 50))
    turns = [Turn("…", ImageSearch(("Ada",))), answer(("Ada", None))]
    (entity,) = entities_shown(episode(order, turns, StopReason.ANSWER), order, min_pixels=1, max_pixels=10_000)
    assert entity["searched"] is False


@pytest.mark.parametrize("stop", [StopReason.MALFORMED, StopReason.SEARCH_LIMIT, StopReason.TRUNCATED])
def test_an_episode_without_an_answer_is_a_result_without_entities(stop: StopReason) -> None:
    order = order_of("a post", (50, 50), (50, 50))
    turns = [
        Turn("<reason> who? </reason>…", TextSearch(("q", "r")), found("q", "r"), generate_s=0.5),
        Turn("nonsense", Malformed("no_action")) if stop is StopReason.MALFORMED else Turn("…", TextSearch(("s",))),
    ]
    first = turn_shown(0, turns[0], 2, 2, search_shown(found("q", "r"), thumbnails=True))
    shown = [first, turn_shown(1, turns[1], 4, 2, None)]
    trajectory = episode(order, turns, stop)
    result = result_shown(trajectory, order, CARD, shown, seconds=1.0, min_pixels=1, max_pixels=10_000)
    assert (result["entities"], result["stop"], result["seed"]) == ([], str(stop), 7)
    assert result["usage"] == {"prompt_tokens": 6, "generated_tokens": 4, "searches": 1, "queries": 2}
    assert result["seconds"] == {"wait": 0.0, "generate": 0.5, "search": 0.25, "total": 1.0}
    assert first["reasoning"] == "who?" and "secret" not in json.dumps(result)
    assert (shown[1]["action"], shown[1]["malformed"]) == (
        ("malformed", "no_action") if stop is StopReason.MALFORMED else ("text_search", None)
    )


def test_a_thumbnail_is_shown_unless_its_picture_is_gone_or_none_is_wanted(tmp_path: Path) -> None:
    here = tmp_path / "here.jpg"
    here.write_bytes(pictures.jpeg())
    images = (ImageRef(str(here), 60, 40), ImageRef(str(tmp_path / "gone.jpg"), 60, 40))
    observation = Observation(SearchKind.IMAGE, (QueryResult("q", "success", "", images),))
    (result,) = search_shown(observation, thumbnails=True)["results"]
    first, second = result["images"]
    assert first["thumbnail"].startswith("data:image/webp;base64,") and second["thumbnail"] is None
    assert (second["width"], second["height"]) == (60, 40)
    (result,) = search_shown(observation, thumbnails=False)["results"]
    assert [image["thumbnail"] for image in result["images"]] == [None, None]


SIZES = st.integers(1, 3_000)
SIDES = st.floats(-1e6, 1e6)


@given(SIZES, SIZES, st.lists(st.tuples(st.text(min_size=1), st.none() | st.tuples(SIDES, SIDES, SIDES, SIDES))))
def test_whatever_a_policy_answers_can_be_shown(
    width: int, height: int, entities: list[tuple[str, Corners | None]]
) -> None:
    order = order_of("a post of Ada", (width, height), (max(1, width // 2), max(1, height // 2)))
    trajectory = episode(order, [answer(*entities)], StopReason.ANSWER)
    shown = entities_shown(trajectory, order, min_pixels=100, max_pixels=1_000_000)
    assert [entity["text"] for entity in shown] == [text for text, _ in entities]
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
