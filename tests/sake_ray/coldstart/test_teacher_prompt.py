"""Hidden instructions say what is gold, known and next; `leaks` finds who betrays them and leaves others alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sake_ray.actions import parse_action
from sake_ray.coldstart.teacher_prompt import LEAK_PHRASES, TeacherPrompt, leaks, load_teacher_prompt
from sake_ray.coldstart.teaching import Brief, Need, TaughtTurn
from sake_ray.prompts import SETS, TASKS, PromptError, load_prompts
from sake_ray.types import Answer, Box, Entity, Example, ImageRef, Observation, SearchKind

ENTITIES = (
    Entity("Ada Vex", "PER", (Box(100, 40, 300, 160), Box(0, 0, 9, 9))),
    Entity('The "Old" Mill', "LOC"),
    Entity("Ada Vex", "ORG"),
)
EXAMPLE = Example("p1", 'Ada Vex at The "Old" Mill , Ada Vex', ImageRef("x", 400, 200), ENTITIES)
TEXT, IMAGE = (TaughtTurn("", Observation(kind, ())) for kind in SearchKind)


def prompt_of(task: str = "gmner", *, image_first: bool = False, folder: str = "") -> TeacherPrompt:
    return load_teacher_prompt(task, min_pixels=28 * 28, max_pixels=200 * 100, image_first=image_first, folder=folder)


def now_of(brief: Brief, *turns: TaughtTurn, image_first: bool = False) -> str:
    return prompt_of(image_first=image_first).hidden(brief, turns).split("NEXT TURN\n")[1].split("\n")[0]


@pytest.mark.parametrize("task", TASKS)
def test_the_shipped_instructions_are_filled(task: str) -> None:
    hidden = prompt_of(task).hidden(Brief(EXAMPLE, (Need.TEXT, Need.NONE, Need.BOTH)), (), "a {answer}\n<|x|> b")
    assert "rejected because: a {answer} b. Avoid that." in hidden, "filled in one pass"
    assert not any(mark in hidden for mark in ("{needs}", "{now}", "{feedback}", "\n\n\n"))
    answer = next(line for line in hidden.splitlines() if line.startswith("["))
    action = parse_action(f"<reason>r</reason><answer>{answer}</answer>")
    assert isinstance(action, Answer)
    assert [entity.text for entity in action.entities] == [entity.text for entity in ENTITIES]
    assert [entity.box for entity in action.entities] == [(50.0, 20.0, 150.0, 80.0), None, None]
    assert "rejected" not in prompt_of(task).hidden(Brief(EXAMPLE, (Need.NONE,) * 3))


def test_every_need_has_its_words() -> None:
    lines = prompt_of().hidden(Brief(EXAMPLE, (Need.TEXT, Need.IMAGE, Need.BOTH), frozenset({2}))).splitlines()
    needs = [line for line in lines if line.startswith("- ")]
    assert needs[0] == '- "Ada Vex": not known who or what this is. A text search has to tell.'
    assert needs[1].startswith('- "The \\"Old\\" Mill": known who or what this is, but not what it looks like.')
    assert "up to you" in needs[2]


@pytest.mark.parametrize(
    ("needs", "turns", "image_first", "wanted"),
    [
        ((Need.NONE,) * 3, (), False, "The reader answers now, without any search."),
        ((Need.TEXT, Need.NONE, Need.TEXT), (), False, 'The reader makes a text search for "Ada Vex". At most 5'),
        ((Need.TEXT, Need.NONE, Need.TEXT), (TEXT,), False, "The reader answers now, without any further search."),
        ((Need.TEXT, Need.IMAGE, Need.NONE), (), False, 'a text search for "Ada Vex", or an image search for "The'),
        ((Need.TEXT, Need.IMAGE, Need.NONE), (), True, 'The reader makes an image search for "The'),
        ((Need.TEXT, Need.IMAGE, Need.NONE), (IMAGE,), True, 'The reader makes a text search for "Ada Vex". At'),
        ((Need.BOTH, Need.NONE, Need.NONE), (TEXT, IMAGE), False, "The reader answers now"),
    ],
)
def test_what_comes_next(
    needs: tuple[Need, ...], turns: tuple[TaughtTurn, ...], image_first: bool, wanted: str
) -> None:
    now = now_of(Brief(EXAMPLE, needs), *turns, image_first=image_first)
    assert now.startswith(wanted) if wanted.startswith("The reader") else wanted in now


def test_what_is_free_may_be_searched_for() -> None:
    free = Brief(EXAMPLE, (Need.NONE,) * 3, frozenset({1}))
    assert 'or first makes an image search or a text search for "The' in now_of(free)
    assert "or first makes an image search for" in now_of(free, TEXT)
    assert now_of(free, TEXT, image_first=True) == now_of(free, TEXT, IMAGE)
    forced = Brief(EXAMPLE, (Need.TEXT, Need.NONE, Need.NONE), frozenset({1}))
    assert 'a text search for "Ada Vex". It may ask for "The' in now_of(forced)


def test_a_post_without_entities() -> None:
    hidden = prompt_of().hidden(Brief(Example("p", "words", ImageRef("x", 40, 20), ()), ()))
    assert "\n[]\n" in hidden
    assert "The post names no entity." in hidden


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"gmner_teacher\.txt: no such prompt file"),
        ("", "the file is empty"),
        ("{answer}{needs}{now}{feedback}{now}", r"\{now\} occurs 2 times"),
        ("{answer}{needs}{now}{ Feedback }", "is no placeholder"),
        ("\udcff", "not UTF-8"),
        ("x" * 70_000, "70000 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "gmner_teacher.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(PromptError, match=message):
        prompt_of(folder=str(tmp_path))


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(PromptError, match=r"data\.task='ner'"):
        prompt_of("ner")


HIDDEN = prompt_of().hidden(Brief(EXAMPLE, (Need.TEXT, Need.NONE, Need.NONE)))
INSTRUCTION = load_prompts("gmner", "full").instruction

BETRAYALS = [
    "I was told that Ada is a singer.",
    "As instructed, I search first.",
    "I\u2019m supposed to search for Ada.",
    "This matches the gold answer.",
    "The ground-truth says PER.",
    "There are hidden instructions.",
    "I will pretend not to know Ada.",
    "I should act as if I do not know her.",
    "I must pretend that I know nothing.",
    "The reference answer has two entities.",
    "The provided\nanswer lists Ada.",
    "According to the instructions I must search.",
    "I cannot reveal why.",
    "The system prompt names Ada.",
    "The solution lists Norwich too.",
    "The answer is given, so I copy it.",
    "I was given the answer.",
    "My last attempt was rejected for its box.",
    "The reader does not know Ada.",
    "Ada is marked as unknown.",
    "I actually know the answer.",
    "I HAVE BEEN TOLD who this is.",
    "We write this as training data.",
]
HARMLESS = [
    "The text names Ada Vex and Norwich. I know Norwich, a city, but not who Ada Vex is, so I search for her.",
    "She won a gold medal on the Gold Coast.",
    "The children in the picture are in a pretend play at Pretend City.",
    "Golden Gate Bridge stands behind him, and a golden box lies in front.",
    "The search says that Ada Vex is a singer, so her type is PER.",
    "I do not know what she looks like, so I ask for pictures.",
    "Although I know the name, I cannot tell who of the three it is.",
    "My answer has two entities; Norwich is not to be seen.",
    "Def Jam is a known label, and the given types are PER, ORG, LOC and MISC.",
    "The film as directed by her was told in three parts, and the list is long.",
    "The man on the left pretends to be asleep, the target of a joke.",
    "I am not allowed to search twice, so I answer.",
]


@pytest.mark.parametrize("reason", BETRAYALS)
def test_what_betrays_the_instructions_is_found(reason: str) -> None:
    assert leaks(f"<reason>{reason}</reason><answer>[]</answer>", HIDDEN, INSTRUCTION)


@pytest.mark.parametrize("reason", HARMLESS)
def test_what_betrays_nothing_passes(reason: str) -> None:
    assert leaks(f"<reason>{reason}</reason><answer>[]</answer>", HIDDEN, INSTRUCTION) is None
    assert leaks(reason, HIDDEN) is None


def test_words_of_the_post_may_be_repeated() -> None:
    reason = "<reason>The text says: I was told to pretend that Gold Label is mine.</reason>"
    assert leaks(reason, HIDDEN, INSTRUCTION) == "I was told"
    assert leaks(reason, HIDDEN, f"{INSTRUCTION}\nI  was TOLD to pretend that Gold Label is mine .") is None


def test_a_run_of_hidden_words_is_found_unless_it_is_visible_too() -> None:
    said = "So I say openly, as it says openly what it does not know and why that matters, what is open."
    assert leaks(said, HIDDEN) == "it says openly what it does not know"
    assert leaks(said, HIDDEN, f"Nobody {said}") is None
    assert leaks(said, "") is None
    assert leaks("says openly what it does not know", HIDDEN) is None, "seven words are no proof"


def test_the_answer_itself_and_names_are_no_hidden_words() -> None:
    gold = next(line for line in HIDDEN.splitlines() if line.startswith("["))
    assert leaks(f"<reason>My list: {gold}</reason><answer>{gold}</answer>", HIDDEN) is None
    long = "The Very Long Name Of A Film With More Than Eight Words In It"
    brief = Brief(Example("p", long, ImageRef("x", 9, 9), (Entity(long, "MISC"),)), (Need.TEXT,))
    turn = f"<reason>Who made {long}?</reason><text_search>{json.dumps([{'query': long}])}</text_search>"
    assert leaks(turn, prompt_of().hidden(brief)) is None


@pytest.mark.parametrize("set_name", SETS)
@pytest.mark.parametrize("task", TASKS)
def test_the_visible_prompts_themselves_betray_nothing(task: str, set_name: str) -> None:
    """So a turn that takes up their words is not held to have leaked."""
    prompts = load_prompts(task, set_name)
    hidden = prompt_of(task).hidden(Brief(EXAMPLE, (Need.BOTH, Need.IMAGE, Need.NONE)))
    for text in (prompts.instruction, prompts.after_text_search, prompts.after_image_search):
        assert leaks(text, hidden) is None


def test_the_instructions_betray_themselves() -> None:
    assert leaks(HIDDEN, "") is not None
    assert leaks(HIDDEN.replace("reader", "model"), HIDDEN) is not None


def test_phrases_are_given_for_others_to_read() -> None:
    assert len(set(LEAK_PHRASES)) == len(LEAK_PHRASES) > 20


def test_quoting_real_posts_betrays_nothing(shared: Path) -> None:
    fired, count = [], 0
    for name in ("dev", "test"):
        for line in (shared / "data" / "twitter_gmner" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            post = " ".join(json.loads(line)["tokens"])
            count += 1
            if leaks(f"<reason>The text says: {post}</reason>", HIDDEN) is not None:
                fired.append(post)
    assert count == 3000
    assert fired == []
