"""The episodes of an evaluation: one line each in `episodes.jsonl`, written as they finish, and the records made of it.

A line is a row of a run's `trajectories.jsonl` with `sample` (from 0), `seed` (null: greedy) and `claims` (boxes in
original pixels) beside it. Knows nothing of who plays episodes. Always holds: an episode is in the file once; a folder
of other settings, or a line of another post than the data now has under that id, is refused; records follow from the
lines and the posts alone, however often the evaluation was cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rewards.composite import Scorer
from rewards.evaluation.inputs import record_of_example
from rewards.evaluation.record_files import MAX_LINE, records_of_rows
from rewards.evaluation.records import PostRecord
from rewards.fields import object_at
from rewards.rows import read_row
from sake_ray.coldstart.stage_folder import GrowingFile, claim
from sake_ray.data.json_files import read_values
from sake_ray.data.problems import DataError, FieldError
from sake_ray.metrics import trajectory_rows
from sake_ray.trajectory import Trajectory, TrajectoryGroup
from sake_ray.types import Example

EPISODES = "episodes.jsonl"
UNANSWERED = "unanswered"
"""The stop reason of a post that got no answer and is counted as an empty one."""


class EpisodeFile:
    """The episodes of a folder: those that are there, and a place for more."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, min_pixels: int, max_pixels: int) -> None:
        """Open or begin the file; `identity` is all that the episodes depend on beside the posts.

        Raises:
            DataError: the folder holds episodes of other settings, or the file is broken.
        """
        claim(folder, identity, "output")
        self._file = GrowingFile(folder / EPISODES)
        self._pixels = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        self._rows: dict[tuple[str, int], dict[str, Any]] = {}
        for line, value in [] if self._file.empty else read_values(self._file.path, max_value_chars=MAX_LINE):
            try:
                row = dict(object_at(value, "line"))
                key = (str(row["example"]), int(row["sample"]))
            except (FieldError, KeyError, TypeError, ValueError) as error:
                raise DataError(f"{self._file.path}:{line}: is no episode ({error}); remove the line") from error
            if key in self._rows:
                raise DataError(
                    f"{self._file.path}:{line}: sample {key[1]} of post {key[0]} is there twice; remove one"
                )
            self._rows[key] = row

    def missing(self, example: Example, samples: int) -> list[int]:
        """The samples of a post that are still to be taken."""
        return [number for number in range(samples) if (example.id, number) not in self._rows]

    def check(self, example: Example, samples: int) -> None:
        """Hold what is there of a post against the post.

        Raises:
            DataError: its text, gold or picture was another when it was answered.
        """
        now = _facts(_row_of(Trajectory("", example)))
        for number in range(samples):
            row = self._rows.get((example.id, number))
            if row is not None and _facts(row) != now:
                raise DataError(
                    f"{self._file.path}: post {example.id} has other text, gold or picture than when it was answered; "
                    "choose another output, or remove the folder"
                )

    def add(self, trajectory: Trajectory, sample: int, seed: int | None, **counts: int) -> None:
        """Keep a finished episode; on disk when this returns. `counts` take the place of the trajectory's own."""
        row = _row_of(trajectory) | {"sample": sample, "seed": seed} | counts
        (record,) = records_of_rows([row], **self._pixels)
        row["claims"] = [
            {"entity": said.text, "type": said.type, "box2d": list(said.box) if said.box else []}
            for said in record.claims
        ]
        self._file.add(row)
        self._rows[trajectory.example.id, sample] = row

    def total(self, name: str, examples: Sequence[Example], samples: int) -> int:
        """The sum of a count over the episodes of these posts."""
        keys = [(example.id, number) for example in examples for number in range(samples)]
        return sum(int(self._rows[key].get(name, 0)) for key in keys if key in self._rows)

    def records(
        self, examples: Sequence[Example], samples: int, scorer: Scorer, *, empty: bool = False
    ) -> list[PostRecord]:
        """The records of the posts, in their order; a post with a sample missing is left out, or `empty` stands in.

        Raises:
            DataError: a line is no episode.
        """
        found = []
        for example in examples:
            missing = self.missing(example, samples)
            if missing and not empty:
                continue
            for number in range(samples):
                if number in missing:
                    found.append(replace(record_of_example(example), sample=number, stop_reason=UNANSWERED))
                else:
                    found.append(self._record(example, number, scorer))
        return found

    def _record(self, example: Example, sample: int, scorer: Scorer) -> PostRecord:
        row = self._rows[example.id, sample]
        try:
            (record,) = records_of_rows([row], **self._pixels)
            reward = scorer.score(read_row(row))
        except FieldError as error:
            raise DataError(f"{self._file.path}: sample {sample} of post {example.id}: {error}") from error
        return replace(
            record,
            sample=sample,
            gold=record_of_example(example).gold,
            reward=asdict(reward),
            extra={**record.extra, "seed": row["seed"]},
        )


def _row_of(trajectory: Trajectory) -> dict[str, Any]:
    (row,) = trajectory_rows([TrajectoryGroup(trajectory.example, [trajectory])], 0, "eval")
    return row


def _facts(row: Mapping[str, Any]) -> list[Any]:
    """What a row says of its post that answers and scores depend on."""
    gold = [[entity["entity"], entity["type"], entity["boxes"]] for entity in row["gold"]]
    return [row["post"], row["image_size"], gold]
