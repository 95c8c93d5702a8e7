"""Evaluation over a whole set: micro and macro precision, recall and F1 of MNER, EEG and GMNER, in percent.

`strict`, the default: every post counts, pairing is one-to-one and as large as possible, and an entity with
several gold boxes is one entity that any of them satisfies; macro is over the types of the gold, EEG has
one type. `release`: the released evaluator, bug for bug (`rewards/released_evaluator.py`). The protocol of H-Index
is `strict`: it differs only in telling spans apart by position, which an answer here does not give.

Knows nothing of models or trajectories. Always holds: predictions and gold are about the same posts in the
same order, or the call raises; under `strict` an unanswered post costs all its gold.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.entities import Claim, Gold
from rewards.matching import Task
from rewards.pairs import IOU_THRESHOLD, PostPairs, pair_post
from rewards.parsing import read_quad
from rewards.released_evaluator import released_tallies
from rewards.tally import Tally
from sake_ray.data.boxes import Quad
from sake_ray.data.gold import mention_numbers
from sake_ray.data.problems import FieldError

PROTOCOLS = ("strict", "release")

Post = tuple[Sequence[Claim], Sequence[Gold]]
Scores = dict[str, dict[str, float]]
"""`gmner`, `eeg`, `mner` → `micro_precision`, `micro_recall`, `micro_f1`, `macro_precision`, …"""


def evaluate(
    predictions: Sequence[Mapping[str, Any]],
    gold: Sequence[Mapping[str, Any]],
    protocol: str = "strict",
    types: Collection[str] | None = None,
) -> Scores:
    """Score predictions against gold, both in the release's own form, boxes in original pixels.

    Args:
        predictions: one `{"img_id", "pre_entities": [{"phrase", "entity_type", "region_box"}, …]}` a post.
        gold: one `{"img_id", "gt_entities": [… and "start", "end"]}` a post, a row per box.
        protocol: "strict" or "release".
        types: those of the task; `release` leaves out predictions of others (None: of none).

    Raises:
        FieldError: the posts differ, or a field is missing or of the wrong type.
        ValueError: an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is not one of {', '.join(PROTOCOLS)}")
    if len(predictions) != len(gold):
        raise FieldError("predictions", f"has {len(predictions)} posts, gold has {len(gold)}; answer every post")
    posts: list[Post] = []
    for index, (said, true) in enumerate(zip(predictions, gold, strict=True)):
        if said.get("img_id") != true.get("img_id"):
            why = f"is {said.get('img_id')!r:.60}, gold has {true.get('img_id')!r:.60} there; keep the order of gold"
            raise FieldError(f"predictions[{index}].img_id", why)
        claims = [row.claim for row in read_rows(said, "pre_entities", f"predictions[{index}]")]
        rows = read_rows(true, "gt_entities", f"gold[{index}]")
        posts.append((claims, release_rows(rows) if protocol == "release" else entities_of_rows(rows)))
    return score_release(posts, types) if protocol == "release" else score_strict(posts)


def score_strict(posts: Sequence[Post], iou_threshold: float = IOU_THRESHOLD) -> Scores:
    """The strict protocol over posts of (claims, gold entities with all their boxes)."""
    return strict_scores(posts, [pair_post(claims, gold, iou_threshold) for claims, gold in posts])


def strict_scores(posts: Sequence[Post], pairs: Sequence[PostPairs]) -> Scores:
    """The strict protocol over posts that have been paired already."""
    kinds = [([c.type.strip() for c in claims], [g.type.strip() for g in gold]) for claims, gold in posts]
    claimed = [kind for said, _ in kinds for kind in said]
    true = [kind for _, of_gold in kinds for kind in of_gold]
    scores = {}
    for task in Task:
        tally = Tally()
        if task is Task.EEG:
            right = [""] * sum(index >= 0 for pair in pairs for index in pair.eeg)
            tally.claimed[""], tally.gold[""] = len(claimed), len(true)
        else:
            found = [pair.of(task) for pair in pairs]
            right = [
                of_gold[at] for indices, (_, of_gold) in zip(found, kinds, strict=True) for at in indices if at >= 0
            ]
            tally.claimed.update(claimed)
            tally.gold.update(true)
        tally.right.update(right)
        scores[task.value] = tally.scores([""] if task is Task.EEG else set(true))
    return scores


def score_release(posts: Sequence[Post], types: Collection[str] | None = None) -> Scores:
    """The released protocol over posts of (claims, gold rows of at most one box); `types` as in `evaluate`."""
    tallies = released_tallies(posts, types)
    return {task.value: tally.scores({*tally.claimed, *tally.gold}) for task, tally in tallies.items()}


@dataclass(frozen=True, slots=True)
class EntityRow:
    """One row of a file in the release's form: one box or none; the span is None where the row has none."""

    text: str
    type: str
    box: Quad | None
    span: tuple[object, object] | None

    @property
    def claim(self) -> Claim:
        """The row as a prediction."""
        return Claim(self.text, self.type, self.box)


def read_rows(post: Mapping[str, Any], name: str, where: str) -> list[EntityRow]:
    """The rows of a post.

    Raises:
        FieldError: a field is missing or of the wrong type.
    """
    entities = post.get(name)
    if not isinstance(entities, list):
        raise FieldError(f"{where}.{name}", "must be a list of entities")
    return [_row(item, f"{where}.{name}[{index}]") for index, item in enumerate(entities)]


def release_rows(rows: Sequence[EntityRow]) -> list[Gold]:
    """Gold as the released protocol takes it, row by row."""
    return [Gold(row.text, row.type, () if row.box is None else (row.box,)) for row in rows]


def entities_of_rows(rows: Sequence[EntityRow]) -> list[Gold]:
    """One entity per text, type and span, with all its boxes; rows without spans as everywhere where gold has none."""
    numbers = mention_numbers((row.text, row.type, row.box) for row in rows)
    found: dict[tuple[str, str, object], list[Quad]] = {}
    for row, number in zip(rows, numbers, strict=True):
        boxes = found.setdefault((row.text, row.type, number if row.span is None else row.span), [])
        boxes.extend([] if row.box is None else [row.box])
    return [Gold(text, kind, tuple(boxes)) for (text, kind, _), boxes in found.items()]


def _row(item: object, where: str) -> EntityRow:
    if not isinstance(item, dict):
        raise FieldError(where, "must be an object")
    text, kind, box = item.get("phrase"), item.get("entity_type"), item.get("region_box")
    if not isinstance(text, str) or not isinstance(kind, str):
        raise FieldError(where, "must have the texts phrase and entity_type")
    quad = read_quad(box) if isinstance(box, list) else None
    if not isinstance(box, list) or (box and quad is None):
        raise FieldError(f"{where}.region_box", f"must be [] or four numbers, not {box!r:.60}")
    start, end = item.get("start"), item.get("end")
    span = (start, end) if isinstance(start, int) and isinstance(end, int) else None
    return EntityRow(text, kind, quad, span)
