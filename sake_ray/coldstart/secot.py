"""Builds SAKE-SeCoT (method, stage 1b): the teacher tries each post until its trajectory passes, every try is kept.

Knows nothing of how an episode is played, nor of endpoints or data sets. Always holds: a post is accepted at most
once; a rejected try is kept with its reasons, which the next try is told; a run that goes on in the same folder
repeats no try that is there, and takes none that was made of other gold or other tags.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sake_ray.coldstart.all_posts import for_all
from sake_ray.coldstart.checker import Problem, Reason
from sake_ray.coldstart.secot_rows import observation_of, observation_row
from sake_ray.coldstart.stage_folder import GrowingFile
from sake_ray.coldstart.teaching import Brief, TeacherError
from sake_ray.data.json_files import MAX_FILE_BYTES, read_values, write_json
from sake_ray.data.problems import DataError, FieldError
from sake_ray.trajectory import Trajectory

ACCEPTED, REJECTED = "accepted.jsonl", "rejected.jsonl"
_FORM = {
    "id": str, "brief": str, "attempt": int, "needs": list, "reasons": list, "details": list, "tokens": int,
    "turns": list,
}  # fmt: skip

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

    def check_belongs(self, brief: Brief) -> None:
        """Refuse a brief whose post was tried as another.

        Raises:
            DataError: its tries were made of other gold or other needs.
        """
        post, ours = brief.example.id, brief_digest(brief)
        for path, rows in (
            (self._accepted.path, [self.accepted[post]] if post in self.accepted else []),
            (self._rejected.path, self.rejected[post]),
        ):
            if any(row["brief"] != ours for row in rows):
                raise DataError(
                    f"{path}: post {post} was taught with other gold or other tags; choose another run.dir, or remove "
                    "the folder"
                )

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
        DataError: a post's tries were made of other gold or other tags.
        TeacherRefused: the teacher will not answer at all; what was made so far is kept.
    """
    for brief in briefs:
        attempts.check_belongs(brief)
    open_posts = [
        brief
        for brief in briefs
        if brief.example.id not in attempts.accepted and len(attempts.rejected[brief.example.id]) < settings.attempts
    ]

    async def one(brief: Brief) -> None:
        await _try_post(brief, play, check, attempts, settings.attempts)

    await for_all(open_posts, one, at_once=settings.concurrency, total=len(briefs), on_post=on_post)


async def _try_post(brief: Brief, play: Play, check: Check, attempts: AttemptLog, most: int) -> None:
    post = brief.example.id
    while post not in attempts.accepted and len(attempts.rejected[post]) < most:
        earlier = attempts.rejected[post]
        # What went wrong on the way to the teacher is nothing it could do better.
        told = [row for row in earlier if row["reasons"] != [str(Reason.NO_TURN)]]
        feedback = "; ".join(told[-1]["details"]) if told else ""
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
    """A try as a line of its file; `reasons` and `details` go together."""
    turns = trajectory.turns if trajectory is not None else []
    return {
        "id": brief.example.id,
        "brief": brief_digest(brief),
        "attempt": number,
        "needs": [str(need) for need in brief.needs],
        "reasons": [str(problem.reason) for problem in problems],
        "details": [problem.detail for problem in problems],
        "stop_reason": str(trajectory.stop_reason) if trajectory is not None else "",
        "tokens": len(trajectory.token_ids) if trajectory is not None else 0,
        "turns": [{"text": turn.text, **observation_row(turn.observation)} for turn in turns],
    }


def brief_digest(brief: Brief) -> str:
    """12 hex digits over what a teacher is told of a post."""
    example = brief.example
    told = [
        example.text,
        [example.image.width, example.image.height],
        [[entity.text, entity.type, [box.as_list() for box in entity.boxes]] for entity in example.entities],
        [str(need) for need in brief.needs],
        sorted(brief.free),
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class BuildReport:
    """What came of the posts.

    Attributes:
        by_reason: reason → rejected tries that had it.
        by_need: accepted / given up, by what the post needed searched.
        by_turns: number of turns → accepted trajectories.
        teacher: requests, tokens and cost, where the teacher has them.
        examples: reason → the first try rejected for it: its post, what was wrong, and its turns.
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
    examples: Mapping[str, Mapping[str, Any]]

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
        examples: dict[str, dict[str, Any]] = {}
        for row in bad:
            for reason, detail in zip(row["reasons"], row["details"], strict=True):
                turns = [turn["text"] for turn in row["turns"]]
                examples.setdefault(reason, {"post": row["id"], "detail": detail, "turns": turns})
        return cls(
            posts=len(ids),
            accepted=len(good),
            given_up=len(ids) - len(good),
            tries=len(good) + len(bad),
            by_reason=dict(Counter(reason for row in bad for reason in dict.fromkeys(row["reasons"])).most_common()),
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
            example = self.examples[reason]
            lines.append(f"rejected for {reason}: {count}, e.g. {example['post']}: {example['detail']}"[:160])
        if self.teacher:
            lines.append("teacher: " + ", ".join(f"{name} {value}" for name, value in self.teacher.items()))
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """`report.json` and, with an example of every reason, `report.md`."""
        write_json(folder / "report.json", vars(self))
        text = f"# SAKE-SeCoT\n\n```\n{self.table()}```\n"
        for reason, example in self.examples.items():
            turns = "\n".join(example["turns"]) or "(no turn)"
            text += f"\n## Rejected for {reason}\n\nPost {example['post']}: {example['detail']}\n\n```\n{turns}\n```\n"
        (folder / "report.md").write_text(text, encoding="utf-8", errors="backslashreplace")


def _need_of(brief: Brief) -> str:
    text, image = any(need.text for need in brief.needs), any(need.image for need in brief.needs)
    if text and image:
        return "text and image search"
    return "text search" if text else "image search" if image else "no search"


def _rows(file: GrowingFile) -> list[dict[str, Any]]:
    if file.empty:
        return []
    rows = []
    for line, row in read_values(file.path, max_value_chars=MAX_FILE_BYTES):
        try:
            _check_row(row)
        except FieldError as error:
            raise DataError(f"{file.path}:{line}: {error}; remove the line") from error
        rows.append(row)
    return rows


def _check_row(row: Any) -> None:
    for key, kind in _FORM.items():
        if not isinstance(row, dict) or not isinstance(row.get(key), kind):
            raise FieldError(key, f"is missing, or no {kind.__name__}")
    if len(row["reasons"]) != len(row["details"]):
        raise FieldError("details", "are not as many as reasons")
    for at, turn in enumerate(row["turns"]):
        if not isinstance(turn, dict) or not isinstance(turn.get("text"), str):
            raise FieldError(f"turns[{at}].text", "is missing, or no str")
        observation_of(turn, f"turns[{at}]")
