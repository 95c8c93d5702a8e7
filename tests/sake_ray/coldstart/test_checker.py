"""What may be learnt from: one trajectory that may, and what each fault is called.

What would go unseen otherwise: a cold start that learns a wrong answer, a needless search, or to talk of its own
instructions; posts that no trajectory can ever satisfy; a report that blames a fault on what followed from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from sake_ray.coldstart import checker
from sake_ray.coldstart.checker import CheckRules, Problem, Reason, about, check
from sake_ray.coldstart.teaching import Brief, Need
from sake_ray.types import Box, Entity
from tests.sake_ray.coldstart.posts import ADA, OSLO, SIDE, answers, asks, played, post

NONE, TEXT, IMAGE, BOTH = Need.NONE, Need.TEXT, Need.IMAGE, Need.BOTH
RULES = CheckRules(min_pixels=SIDE * SIDE, max_pixels=SIDE * SIDE)
BRIEF = Brief(post(ADA, OSLO), (BOTH, NONE))

LOOKS, ASKS = asks("image_search", "what does Ada look like"), asks("text_search", "who is ada ?")
ADA_ROW = ("Ada", "PER", [1, 2, 30, 40])
OSLO_ROW: tuple[str, str, list[int]] = ("Oslo", "LOC", [])
ANSWERS = answers(ADA_ROW, OSLO_ROW)


def problems(
    *turns: str, brief: Brief = BRIEF, rules: CheckRules = RULES, status: str = "success", max_turn_tokens: int = 1024
) -> list[Problem]:
    return check(played(brief.example, *turns, status=status, max_turn_tokens=max_turn_tokens), brief, rules)


def reasons(*turns: str, brief: Brief = BRIEF, rules: CheckRules = RULES, status: str = "success") -> set[str]:
    return {str(problem.reason) for problem in problems(*turns, brief=brief, rules=rules, status=status)}


def answered(*rows: tuple[str, str, Sequence[float]]) -> tuple[str, str, str]:
    return LOOKS, ASKS, answers(*rows)


def test_a_trajectory_by_the_book_is_accepted_in_either_order_of_tools() -> None:
    assert problems(LOOKS, ASKS, ANSWERS) == problems(ASKS, LOOKS, ANSWERS) == []
    assert problems(answers(OSLO_ROW, ADA_ROW), brief=replace(BRIEF, needs=(NONE, NONE))) == []
    assert problems(LOOKS, ASKS, ANSWERS, status="no_result") == []


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (("Ada is a person",), "format"),
        ((LOOKS, "<reason>?</reason><text_search>[]</text_search>"), "format"),
        ((LOOKS, LOOKS), "tool_order"),
        ((LOOKS, ASKS, ASKS), "tool_order"),
        ((LOOKS, ANSWERS), "unknown_not_searched"),
        ((ASKS, ANSWERS), "unknown_not_searched"),
        ((ANSWERS,), "unknown_not_searched"),
        ((LOOKS, asks("text_search", "Adam", "Canada"), ANSWERS), "unknown_not_searched"),
        ((LOOKS, asks("text_search", "Ada", "Oslo"), ANSWERS), "known_searched"),
        (answered(ADA_ROW), "wrong_answer"),
        (answered(ADA_ROW, OSLO_ROW, ("Rome", "LOC", [])), "wrong_answer"),
        (answered(ADA_ROW, OSLO_ROW, OSLO_ROW), "wrong_answer"),
        (answered(ADA_ROW, ("Oslo", "ORG", [])), "wrong_answer"),
        (answered(ADA_ROW, ("oslo", "LOC", [])), "wrong_answer"),
        (answered(("Ada", "PER", []), OSLO_ROW), "wrong_answer"),
        (answered(ADA_ROW, ("Oslo", "LOC", [1, 2, 30, 40])), "wrong_answer"),
        (answered(("Ada", "PER", [1, 2, 32, 40]), OSLO_ROW), "wrong_answer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_fault_has_its_name_and_nothing_else_is_blamed(turns: tuple[str, ...], expected: str) -> None:
    assert reasons(*turns) == {expected}


def test_a_search_that_got_no_answer_is_not_the_teachers_fault_but_cannot_be_learnt() -> None:
    assert reasons(LOOKS, ASKS, ANSWERS, status="failed") == {Reason.SEARCH_FAILED}


def test_a_turn_that_does_not_fit_is_too_long() -> None:
    cut = played(BRIEF.example, LOOKS, ASKS, "<reason>" + "so " * 50 + ANSWERS, max_turn_tokens=20)
    assert [problem.reason for problem in check(cut, BRIEF, RULES)] == [Reason.TOO_LONG]


def test_the_released_reward_wants_pictures_first() -> None:
    first = replace(RULES, image_first=True)
    assert reasons(ASKS, LOOKS, ANSWERS, rules=first) == {Reason.TOOL_ORDER}
    assert problems(LOOKS, ASKS, ANSWERS, rules=first) == []


def test_without_anything_to_look_up_there_is_no_search_at_all() -> None:
    known = replace(BRIEF, needs=(NONE, NONE))
    assert reasons(asks("text_search", "the weather"), ANSWERS, brief=known) == {Reason.KNOWN_SEARCHED}
    nothing = Brief(post(), ())
    assert reasons(asks("text_search", "the weather"), answers(), brief=nothing) == {Reason.KNOWN_SEARCHED}
    assert problems(answers(), brief=nothing) == []


def test_what_is_free_may_be_searched_for_or_not() -> None:
    free = Brief(BRIEF.example, (TEXT, NONE), frozenset({1}))
    assert problems(asks("text_search", "Ada", "Oslo"), ANSWERS, brief=free) == []
    assert problems(asks("text_search", "Ada"), ANSWERS, brief=free) == []


# --- which names a query asks for ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("who is the mayor of NEW  YORK ?", {1}),
        ("York", {0}),
        ("york , new york", {0, 1}),
        ("Yorkshire", set()),
        ("B.B. King 's guitar", {2}),
        ("the US", {3}),
        ("who is Jesus", set()),
        ("", set()),
    ],
)
def test_a_query_asks_for_whole_names(query: str, asked: set[int]) -> None:
    assert about(query, ["York", "New York", "B . B . King", "US"]) == asked


def test_a_longer_name_that_is_searched_is_not_the_known_one_inside_it() -> None:
    york, new_york = Entity("York", "LOC"), Entity("New York", "LOC")
    gold = answers(("York", "LOC", []), ("New York", "LOC", []))
    brief = Brief(post(york, new_york), (NONE, TEXT))
    assert problems(asks("text_search", "New York"), gold, brief=brief) == []
    assert reasons(asks("text_search", "New York", "York"), gold, brief=brief) == {Reason.KNOWN_SEARCHED}
    brief = replace(brief, needs=(TEXT, NONE))
    assert reasons(asks("text_search", "New York"), gold, brief=brief) == {
        Reason.KNOWN_SEARCHED,
        Reason.UNKNOWN_NOT_SEARCHED,
    }


def test_two_entities_of_one_name_of_which_one_is_known_can_be_taught() -> None:
    """Real posts name somebody twice; a query cannot ask for one mention alone."""
    twice = Brief(post(ADA, replace(ADA, text="ADA", boxes=())), (NONE, TEXT))
    gold = answers(ADA_ROW, ("ADA", "PER", []))
    assert problems(asks("text_search", "Ada"), gold, brief=twice) == []
    assert reasons(gold, brief=twice) == {Reason.UNKNOWN_NOT_SEARCHED}


# --- the answer ------------------------------------------------------------------------------------------

FIRST, SECOND = Box(0, 0, 10, 10), Box(40, 40, 60, 60)


@pytest.mark.parametrize(
    ("boxes", "said", "right"),
    [
        ([(FIRST, SECOND)], [SECOND], True),
        ([(FIRST, SECOND)], [FIRST, SECOND], False),
        ([(FIRST,), (SECOND,)], [SECOND, FIRST], True),
        ([(FIRST,), (SECOND,)], [FIRST, FIRST], False),
        ([(FIRST, SECOND), (FIRST,)], [FIRST, SECOND], True),
        ([(FIRST, SECOND), (FIRST,)], [SECOND, SECOND], False),
        ([(FIRST, SECOND), (FIRST, SECOND)], [FIRST, FIRST], True),
    ],
)
def test_answers_pair_up_with_gold_one_to_one(boxes: list[tuple[Box, ...]], said: list[Box], right: bool) -> None:
    """Any of an entity's boxes is right; entities of one name and type may share some."""
    brief = Brief(post(*(Entity("Ada", "PER", found) for found in boxes)), (NONE,) * len(boxes))
    text = answers(*(("Ada", "PER", box.as_list()) for box in said))
    assert reasons(text, brief=brief) == (set() if right else {Reason.WRONG_ANSWER})


@pytest.mark.parametrize(
    ("pixels", "box", "expected"),
    [
        (4 * SIDE * SIDE, [2, 4, 60, 80], set()),
        (4 * SIDE * SIDE, [3, 5, 59, 79], set()),
        (4 * SIDE * SIDE, [1, 2, 30, 40], {Reason.WRONG_ANSWER}),
        (SIDE * SIDE // 4, [0, 1, 15, 20], set()),
        (SIDE * SIDE // 4, [0, 1, 15, 43], {Reason.WRONG_ANSWER, Reason.BOX_OUTSIDE}),
    ],
    ids=["enlarged", "a pixel off", "in original pixels", "shrunk", "outside the shrunk picture"],
)
def test_boxes_are_in_pixels_of_the_picture_as_the_policy_sees_it(
    pixels: int, box: list[int], expected: set[Reason]
) -> None:
    brief = replace(BRIEF, needs=(NONE, NONE))
    rules = CheckRules(min_pixels=pixels, max_pixels=pixels)
    assert reasons(answers(("Ada", "PER", box), OSLO_ROW), brief=brief, rules=rules) == expected


@pytest.mark.parametrize("box", [[-1, 0, 10, 10], [0, 0, 85, 10], [10, 0, 10, 10], [0, 20, 10, 10]])
def test_a_box_that_is_none_inside_the_picture_is_named(box: list[int]) -> None:
    assert Reason.BOX_OUTSIDE in reasons(LOOKS, ASKS, answers(("Ada", "PER", box), OSLO_ROW))


def test_a_box_at_the_pictures_edge_is_inside_and_one_a_pixel_beyond_is_not() -> None:
    brief = Brief(post(Entity("Ada", "PER", (Box(0, 0, SIDE, SIDE),))), (NONE,))
    assert problems(answers(("Ada", "PER", [0, 0, SIDE, SIDE])), brief=brief) == []
    assert reasons(answers(("Ada", "PER", [0, 0, SIDE + 1, SIDE])), brief=brief) == {Reason.BOX_OUTSIDE}


# --- what it says ----------------------------------------------------------------------------------------


def test_words_that_betray_the_instructions_are_a_fault_of_their_own() -> None:
    assert reasons(LOOKS, ASKS.replace("who ?", "I was told to ask"), ANSWERS) == {Reason.LEAKED}


def test_the_first_turn_that_betrays_its_instructions_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str, str]] = []

    def betrays(text: str, hidden: str, visible: str) -> str | None:
        seen.append((text, hidden, visible))
        return "was told" if "was told" in text else None

    monkeypatch.setattr(checker, "leaks", betrays)
    betraying = ASKS.replace("who ?", "I was told")
    trajectory = played(BRIEF.example, LOOKS, betraying, ANSWERS)
    (problem,) = check(trajectory, BRIEF, RULES, hidden="the secret", shown="the prompt")
    assert problem == Problem(Reason.LEAKED, "turn 2 betrays the instructions: 'was told'")
    # Beside the prompt and the post, what a search found may be repeated.
    visible = "the prompt\nAda and Oslo"
    assert seen == [(LOOKS, "the secret", visible), (betraying, "the secret", f"{visible}\nfound")]


def test_details_are_sentences_a_teacher_can_act_on() -> None:
    details = [problem.detail for problem in problems(ANSWERS)]
    assert details == [
        "'Ada' is unknown, but no text search asks for it",
        "what 'Ada' looks like is unknown, but no image search asks",
    ]
