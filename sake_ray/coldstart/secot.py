"""Builds SAKE-SeCoT (method, stage 1b): the teacher tries each post until its trajectory passes, every try is kept.

Knows nothing of how an episode is played, nor of endpoints or data sets. Always holds: a post is accepted at most
once; a rejected try is kept with its reasons, which the next try is told; a run that goes on in the same folder
repeats no try that is there.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sake_ray.coldstart.checker import Problem, Reason
from sake_ray.coldstart.secot_rows import observation_row
from sake_ray.coldstart.stage_folder import GrowingFile
from sake_ray.coldstart.teaching import Brief, TeacherError
from sake_ray.data.json_files import read_values
from sake_ray.data.problems import DataError, ProblemLog
from sake_ray.trajectory import Trajectory

ACCEPTED, REJECTED = "accepted.jsonl", "rejected.jsonl"

Play = Callable[[Brief, str, int], Awaitable[Trajectory]]
"""(brief, feedback, number of the try) → the teacher's episode; raises `TeacherError` when it gave no turn."""
Check = Callable[[Trajectory, Brief], Sequence[Problem]]


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """How posts are tried: at most `attempts` times each, `concurrency` posts at once."""

    attempts: int
    concurrency: int


class AttemptLog:
    """All tries of a folder."""

    def __init__(self, folder: Path) -> None:
        """Open or begin the files.

        Raises:
            DataError: one is broken.
        """
        self._accepted, self._rejected = GrowingFile(folder / ACCEPTED), GrowingFile(folder / REJECTED)
        self.accepted: dict[str, dict[str, Any]] = {row["id"]: row for row in _rows(self._accepted)}
        self.rejected: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in _rows(self._rejected):
            self.rejected[row["id"]].append(row)

    def accept(self, row: dict[str, Any]) -> None:
        """Keep a post's trajectory."""
        self._accepted.add(row)
        self.accepted[row["id"]] = row

    def reject(self, row: dict[str, Any]) -> None:
        """Keep a try and why it failed."""
        self._rejected.add(row)
        self.rejected[row["id"]].append(row)


async def build(
    briefs: Sequence[Brief],
    play: Play,
    check: Check,
    attempts: AttemptLog,
    settings: BuildSettings,
    on_post: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Try every post that is neither accepted nor out of tries; `on_post` hears how many are done.

    Raises:
        TeacherRefused: the teacher will not answer at all; what was made so far is kept.
    """
    open_posts = [
        brief
        for brief in briefs
        if brief.example.id not in attempts.accepted and len(attempts.rejected[brief.example.id]) < settings.attempts
    ]
    done = len(briefs) - len(open_posts)
    on_post(done, len(briefs))
    room = asyncio.Semaphore(settings.concurrency)

    async def one(brief: Brief) -> None:
        nonlocal done
        async with room:
            await _try_post(brief, play, check, attempts, settings.attempts)
        done += 1
        on_post(done, len(briefs))

    try:
        async with asyncio.TaskGroup() as tasks:
            for brief in open_posts:
                tasks.create_task(one(brief))
    except ExceptionGroup as group:
        # Several posts fail of one cause (a wrong key); one of them says it all.
        raise group.exceptions[0] from group


async def _try_post(brief: Brief, play: Play, check: Check, attempts: AttemptLog, most: int) -> None:
    post = brief.example.id
    while post not in attempts.accepted and len(attempts.rejected[post]) < most:
        earlier = attempts.rejected[post]
        feedback = "; ".join(earlier[-1]["details"]) if earlier else ""
        number = len(earlier) + 1
        try:
            trajectory = await play(brief, feedback, number)
        except TeacherError as error:
            attempts.reject(attempt_row(brief, None, [Problem(Reason.NO_TURN, str(error))], number))
            continue
        problems = check(trajectory, brief)
        row = attempt_row(brief, trajectory, problems, number)
        if problems:
            attempts.reject(row)
        else:
            attempts.accept(row)


def attempt_row(
    brief: Brief, trajectory: Trajectory | None, problems: Sequence[Problem], number: int
) -> dict[str, Any]:
    """A try as a line of its file."""
    turns = trajectory.turns if trajectory is not None else []
    return {
        "id": brief.example.id,
        "attempt": number,
        "needs": [str(need) for need in brief.needs],
        "reasons": list(dict.fromkeys(str(problem.reason) for problem in problems)),
        "details": [problem.detail for problem in problems],
        "stop_reason": str(trajectory.stop_reason) if trajectory is not None else "",
        "tokens": len(trajectory.token_ids) if trajectory is not None else 0,
        "turns": [{"text": turn.text, **observation_row(turn.observation)} for turn in turns],
    }


@dataclass(frozen=True)
class BuildReport:
    """What came of the posts.

    Attributes:
        by_reason: reason → rejected tries that had it.
        by_need: accepted / given up, by what the post needed searched.
        by_turns: number of turns → accepted trajectories.
        teacher: requests, tokens and cost, where the teacher has them.
        examples: reason → one rejected try's text.
    """

    posts: int
    accepted: int
    given_up: int
    tries: int
    by_reason: Mapping[str, int]
    by_need: Mapping[str, Mapping[str, int]]
    by_turns: Mapping[int, int]
    searches: int
    tokens: int
    teacher: Mapping[str, Any]
    examples: Mapping[str, str]

    @classmethod
    def of(cls, briefs: Sequence[Brief], attempts: AttemptLog, teacher: Mapping[str, Any]) -> BuildReport:
        """Count the tries of these posts."""
        ids = [brief.example.id for brief in briefs]
        good = [attempts.accepted[post] for post in ids if post in attempts.accepted]
        bad = [row for post in ids for row in attempts.rejected[post]]
        by_need: dict[str, Counter[str]] = defaultdict(Counter)
        for brief in briefs:
            outcome = "accepted" if brief.example.id in attempts.accepted else "given up"
            by_need[_need_of(brief)][outcome] += 1
        examples: dict[str, str] = {}
        for row in bad:
            for reason, detail in zip(row["reasons"], row["details"], strict=False):
                examples.setdefault(reason, f"{row['id']}: {detail}")
        return cls(
            posts=len(ids),
            accepted=len(good),
            given_up=len(ids) - len(good),
            tries=len(good) + len(bad),
            by_reason=dict(Counter(reason for row in bad for reason in row["reasons"]).most_common()),
            by_need={need: dict(counts) for need, counts in sorted(by_need.items())},
            by_turns=dict(sorted(Counter(len(row["turns"]) for row in good).items())),
            searches=sum(turn["kind"] != "" for row in good for turn in row["turns"]),
            tokens=sum(row["tokens"] for row in good),
            teacher=teacher,
            examples=examples,
        )

    def table(self) -> str:
        """The counts as text."""
        lines = [
            f"posts {self.posts}: accepted {self.accepted}, given up {self.given_up}, tries {self.tries}",
            f"accepted trajectories: {self.tokens} tokens, {self.searches} searches; by turns: "
            + (", ".join(f"{turns}: {count}" for turns, count in self.by_turns.items()) or "none"),
        ]
        for need, counts in self.by_need.items():
            lines.append(f"  {need:<28}" + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
        for reason, count in self.by_reason.items():
            lines.append(f"rejected for {reason}: {count}, e.g. {self.examples.get(reason, '')[:120]}")
        if self.teacher:
            lines.append("teacher: " + ", ".join(f"{name} {value}" for name, value in self.teacher.items()))
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """`report.json` and `report.md`."""
        (folder / "report.json").write_text(json.dumps(vars(self), indent=1) + "\n", encoding="utf-8")
        text = f"# SAKE-SeCoT\n\n```\n{self.table()}```\n"
        (folder / "report.md").write_text(text, encoding="utf-8", errors="backslashreplace")


def _need_of(brief: Brief) -> str:
    text, image = any(need.text for need in brief.needs), any(need.image for need in brief.needs)
    if text and image:
        return "text and image search"
    return "text search" if text else "image search" if image else "no search"


def _rows(file: GrowingFile) -> list[dict[str, Any]]:
    if file.empty:
        return []
    rows = [value for _, value in read_values(file.path, ProblemLog("stop"))]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not isinstance(row.get("turns"), list):
            raise DataError(f"{file.path}:{number}: is no trajectory of this stage; remove the line or the file")
    return rows
