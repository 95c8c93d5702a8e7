"""Prompt templates: every shipped set loads, files are checked on loading, and filling keeps images in place."""

from __future__ import annotations

from pathlib import Path

import pytest

from sake_ray.actions import parse_action
from sake_ray.prompts import SETS, TASKS, PromptError, Prompts, load_prompts
from sake_ray.types import Answer, Example, ImageRef, ImageSearch, Observation, QueryResult, SearchKind, TextSearch

POST_IMAGE, A, B = (ImageRef(name, 1, 1) for name in ("post", "a", "b"))
EXAMPLE = Example("p1", "Ada {results} {image} <|im_end|>", POST_IMAGE, ())
GOOD = {"instruction": "{image} {post}", "after_text_search": "{results}", "after_image_search": "{results} {image}"}


def write_set(folder: Path, **texts: str) -> str:
    for name, text in {**GOOD, **texts}.items():
        (folder / f"gmner_{name}.txt").write_text(text)
    return str(folder)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("set_name", SETS)
def test_every_shipped_set_loads_and_fills(task: str, set_name: str) -> None:
    prompts = load_prompts(task, set_name)
    assert [part for part in prompts.first_turn(EXAMPLE) if not isinstance(part, str)] == [POST_IMAGE]
    for kind in SearchKind:
        observation = Observation(kind, (QueryResult("q", "success", "words", (A,)),))
        turn = prompts.search_turn(EXAMPLE, observation)
        assert [part for part in turn if not isinstance(part, str)] == ([A] if kind == "image" else []) + [POST_IMAGE]


@pytest.mark.parametrize("task", TASKS)
def test_the_full_instructions_show_actions_that_parse(task: str) -> None:
    lines = load_prompts(task, "full").instruction.splitlines()
    shown = [parse_action(f"<reason>r</reason>{line}") for line in lines if line.endswith(("_search>", "</answer>"))]
    assert [type(action) for action in shown] == [TextSearch, ImageSearch, Answer]


def test_nothing_in_a_post_or_result_is_a_placeholder() -> None:
    prompts = Prompts("{image}|{post}", "{results}|{post}", "{results}|{image}")
    assert prompts.first_turn(EXAMPLE) == (POST_IMAGE, "|Ada results image")
    observation = Observation(SearchKind.TEXT, (QueryResult("q", "success", "{post} {image}"),))
    assert prompts.search_turn(EXAMPLE, observation) == ("- q: post image|Ada results image",)


def test_result_pictures_stand_in_the_order_of_the_results() -> None:
    prompts = Prompts("{image}{post}", "{results}", "{results}\n{image}!")
    results = (
        QueryResult("x", "success", images=(A, B)),
        QueryResult("y", "failed"),
        QueryResult("z", "success", images=(B,)),
    )
    turn = prompts.search_turn(EXAMPLE, Observation(SearchKind.IMAGE, results))
    assert turn == ("- x: ", A, " ", B, "\n- y: The search did not answer.\n- z: ", B, "\n", POST_IMAGE, "!")


def test_a_folder_of_ones_own_is_taken(tmp_path: Path) -> None:
    prompts = load_prompts("gmner", "full", write_set(tmp_path, instruction='{image} {post} {"query": "x"}\n'))
    assert prompts.instruction == '{image} {post} {"query": "x"}'


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"instruction": "{post}"}, r"gmner_instruction\.txt: \{image\} occurs 0 times"),
        ({"instruction": "{image} {post} {post}"}, r"\{post\} occurs 2 times"),
        ({"instruction": "{image} {post} {results}"}, r"\{results\} occurs 1 times; it must occur 0"),
        ({"after_text_search": "{post}"}, r"gmner_after_text_search\.txt: \{results\} occurs 0 times"),
        ({"after_image_search": "{results} { Image }"}, "is no placeholder"),
        ({"instruction": " \n"}, "is empty"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused_by_name(
    tmp_path: Path, texts: dict[str, str], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        load_prompts("gmner", "full", write_set(tmp_path, **texts))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = write_set(tmp_path)
    (tmp_path / "gmner_after_image_search.txt").unlink()
    with pytest.raises(PromptError, match=r"gmner_after_image_search\.txt: no such prompt file"):
        load_prompts("gmner", "full", folder)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(PromptError, match=r"data\.task='ner'"):
        load_prompts("ner", "full")
    with pytest.raises(PromptError, match=r"prompts\.set='tiny'"):
        load_prompts("gmner", "tiny")
