"""The builder of stage 1b: every try is kept, a rejected one is explained to the next, and nothing is tried twice.

What would go unseen otherwise: a teacher that is never told what was wrong, a killed build that pays for its tries
again, tries of other tags that are taken for this run's, a report whose counts leave tries out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sake_ray.coldstart.checker import Problem, Reason
from sake_ray.coldstart.secot import ACCEPTED, REJECTED, AttemptLog, BuildReport, BuildSettings, build
from sake_ray.coldstart.teaching import Brief, Need, TeacherError, TeacherRefused
from sake_ray.data.problems import DataError
from sake_ray.trajectory import Trajectory, Turn
from sake_ray.types import Answer, Observation, QueryResult, SearchKind, StopReason, TextSearch
from tests.sake_ray.coldstart.posts import ADA, OSLO, post

Outcome = list[Problem] | Exception
WRONG = Problem(Reason.WRONG_ANSWER, "Oslo is a city")
TWICE = [Problem(Reason.KNOWN_SEARCHED, "no A"), Problem(Reason.KNOWN_SEARCHED, "no B"), WRONG]
BRIEFS = [
    Brief(post(ADA, OSLO, name=f"p{number}"), (Need.TEXT if number % 2 else Need.NONE, Need.NONE))
    for number in range(4)
]


class KilledError(Exception):
    """Stands for whatever ends a run."""


class School:
    """Teacher and checker in one: what becomes of try k of a post is written down; what is not is accepted."""

    def __init__(self, outcomes: Mapping[str, Sequence[Outcome]] | None = None) -> None:
        self.outcomes = outcomes or {}
        self.told: list[tuple[str, str, int]] = []
        self.at_once, self.most_at_once = 0, 0
        self.killed_at = -1

    async def play(self, brief: Brief, feedback: str, number: int) -> Trajectory:
        if len(self.told) == self.killed_at:
            raise KilledError
        self.told.append((brief.example.id, feedback, number))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        outcome = self._outcome(brief.example.id, number)
        if isinstance(outcome, Exception):
            raise outcome
        return episode(brief, number)

    def check(self, trajectory: Trajectory, brief: Brief) -> list[Problem]:
        outcome = self._outcome(brief.example.id, int(trajectory.id))
        assert not isinstance(outcome, Exception)
        return outcome

    def _outcome(self, post_id: str, number: int) -> Outcome:
        planned = self.outcomes.get(post_id, ())
        return planned[number - 1] if number <= len(planned) else []


def episode(brief: Brief, number: int) -> Trajectory:
    """One with a search where the brief needs one."""
    turns = [Turn(f"the answer of try {number}", Answer(()))]
    if brief.searches:
        found = Observation(SearchKind.TEXT, (QueryResult("Ada", "success", "a person \ud83d"),))
        turns.insert(0, Turn("who is Ada ?", TextSearch(("Ada",)), found))
    trajectory = Trajectory(str(number), brief.example, turns=turns, token_ids=[1] * 10)
    trajectory.finish(StopReason.ANSWER)
    return trajectory


async def built(
    folder: Path, school: School, briefs: Sequence[Brief] = BRIEFS, *, attempts: int = 3, concurrency: int = 2
) -> AttemptLog:
    log = AttemptLog(folder)
    await build(briefs, school.play, school.check, log, BuildSettings(attempts, concurrency))
    return log


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_rejected_try_is_explained_to_the_next_until_one_is_accepted(tmp_path: Path) -> None:
    school = School({"p1": [TWICE, TeacherError("no answer in time"), []]})
    log = await built(tmp_path, school, BRIEFS[1:2])
    assert school.told == [
        ("p1", "", 1),
        ("p1", "no A; no B; Oslo is a city", 2),
        ("p1", "no A; no B; Oslo is a city", 3),  # a time-out is nothing the teacher could mend
    ]
    first, second = rows(tmp_path / REJECTED)
    assert first["reasons"] == ["known_searched", "known_searched", "wrong_answer"]
    assert (second["reasons"], second["turns"]) == (["no_turn"], [])
    (row,) = rows(tmp_path / ACCEPTED)
    assert row == log.accepted["p1"]
    assert (row["id"], row["attempt"], row["needs"], row["tokens"]) == ("p1", 3, ["only_text", "None"], 10)
    assert [turn["text"] for turn in row["turns"]] == ["who is Ada ?", "the answer of try 3"]
    assert row["turns"][0]["results"] == [
        {"query": "Ada", "status": "success", "text": "a person \ud83d", "images": []}
    ]


async def test_a_post_is_given_up_after_its_tries_and_only_more_tries_open_it_again(tmp_path: Path) -> None:
    school = School({"p0": [[WRONG]] * 9})
    log = await built(tmp_path, school, BRIEFS[:1], attempts=2)
    assert len(school.told) == len(log.rejected["p0"]) == 2
    await built(tmp_path, school, BRIEFS[:1], attempts=2)
    assert len(school.told) == 2
    await built(tmp_path, school, BRIEFS[:1], attempts=3)
    assert school.told[2:] == [("p0", "Oslo is a city", 3)]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_posts_are_in_work_than_allowed(tmp_path: Path, concurrency: int) -> None:
    many = [replace(BRIEFS[0], example=replace(BRIEFS[0].example, id=f"q{number}")) for number in range(12)]
    school = School()
    await built(tmp_path, school, many, concurrency=concurrency)
    assert school.most_at_once == concurrency


async def test_a_teacher_that_refuses_ends_the_build_and_what_was_made_stays(tmp_path: Path) -> None:
    refused = TeacherRefused("the key is wrong; set OPENAI_API_KEY")
    school = School({"p0": [[WRONG], []], "p2": [refused], "p3": [refused]})
    with pytest.raises(TeacherRefused, match="the key is wrong"):
        await built(tmp_path, school, concurrency=1)
    assert [row["id"] for row in rows(tmp_path / ACCEPTED)] == ["p0", "p1"]
    again = School()
    await built(tmp_path, again)
    assert [post_id for post_id, _, _ in again.told] == ["p2", "p3"]


@pytest.mark.parametrize("calls", range(1, 6))
async def test_a_killed_build_goes_on_with_the_try_it_was_at(tmp_path: Path, calls: int) -> None:
    """Wherever it is killed, the tries of both runs together are those of one that was not."""
    outcomes = {"p0": [[WRONG], []], "p2": [[WRONG], [WRONG], [WRONG]]}
    whole = School(outcomes)
    await built(tmp_path / "whole", whole, concurrency=1)

    killed, again = School(outcomes), School(outcomes)
    killed.killed_at = calls
    with pytest.raises(KilledError):
        await built(tmp_path / "run", killed, concurrency=1)
    with (tmp_path / "run" / REJECTED).open("a") as file:
        file.write('{"id": "p2", "attempt": 9, "needs": [')  # half a line of a try that was under way
    await built(tmp_path / "run", again, concurrency=1)
    assert killed.told + again.told == whole.told
    for name in (ACCEPTED, REJECTED):
        assert rows(tmp_path / "run" / name) == rows(tmp_path / "whole" / name)


@pytest.mark.parametrize(
    "other",
    [
        replace(BRIEFS[1], needs=(Need.NONE, Need.NONE)),
        replace(BRIEFS[1], free=frozenset({1})),
        replace(BRIEFS[1], example=post(replace(ADA, type="ORG"), OSLO, name="p1")),
        replace(BRIEFS[1], example=post(ADA, OSLO, name="p1", side=85)),
    ],
    ids=["needs", "free", "gold", "picture"],
)
@pytest.mark.parametrize("outcome", [[], [WRONG]], ids=["accepted", "rejected"])
async def test_tries_of_other_gold_or_tags_are_refused(tmp_path: Path, other: Brief, outcome: Outcome) -> None:
    await built(tmp_path, School({"p1": [outcome]}), BRIEFS[1:2], attempts=1)
    school = School()
    with pytest.raises(DataError, match="post p1 was taught with other gold or other tags"):
        await built(tmp_path, school, [BRIEFS[0], other])
    assert not school.told


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("5", r"accepted\.jsonl:1: id: is missing"),
        ("{", r"accepted\.jsonl:1: json"),
        ({"turns": None}, r"accepted\.jsonl:1: turns: is missing, or no list; remove the line"),
        ({"details": ["a"]}, r"accepted\.jsonl:1: details: are not as many as reasons"),
        ({"turns": [{"text": "t", "kind": "smell", "results": []}]}, r"turns\[0\].kind: 'smell' is no kind of search"),
        ({"turns": ["t"]}, r"turns\[0\].text: is missing"),
    ],
)
async def test_a_broken_line_is_named(tmp_path: Path, line: str | dict[str, Any], message: str) -> None:
    await built(tmp_path, School(), BRIEFS[:1])
    row = rows(tmp_path / ACCEPTED)[0]
    broken = line if isinstance(line, str) else json.dumps({**row, **line})
    (tmp_path / ACCEPTED).write_text(f"{broken}\n")
    with pytest.raises(DataError, match=message):
        AttemptLog(tmp_path)


async def test_the_reports_counts_add_up_and_each_reason_has_its_own_example(tmp_path: Path) -> None:
    school = School({"p0": [TWICE, []], "p1": [TeacherError("slow")], "p3": [[WRONG]] * 3})
    log = await built(tmp_path, school)
    report = BuildReport.of(BRIEFS, log, {"requests": 5})
    assert (report.posts, report.accepted, report.given_up, report.tries) == (4, 3, 1, 8)
    assert report.tries == len(school.told)
    assert report.by_reason == {"wrong_answer": 4, "known_searched": 1, "no_turn": 1}
    assert report.by_need == {"no search": {"accepted": 2}, "text search": {"accepted": 1, "given up": 1}}
    assert report.by_turns == {1: 2, 2: 1}
    assert (report.searches, report.tokens) == (1, 30)
    assert {reason: example["detail"] for reason, example in report.examples.items()} == {
        "wrong_answer": "Oslo is a city",
        "known_searched": "no A",
        "no_turn": "slow",
    }
    report.write(tmp_path)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written == json.loads(json.dumps(vars(report)))
    text = (tmp_path / "report.md").read_text()
    assert report.table() in text
    assert "the answer of try 1" in text
    # Only these posts are counted, whatever else the folder holds.
    assert BuildReport.of(BRIEFS[:1], log, {}).tries == 2


async def test_progress_counts_posts_that_are_done(tmp_path: Path) -> None:
    await built(tmp_path, School(), BRIEFS[:2])
    heard: list[tuple[int, int]] = []
    school = School({"p2": [[WRONG]] * 3})
    await build(
        BRIEFS,
        school.play,
        school.check,
        AttemptLog(tmp_path),
        BuildSettings(3, 4),
        lambda done, total: heard.append((done, total)),
    )
    assert heard == [(2, 4), (3, 4), (4, 4)]
