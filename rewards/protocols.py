"""Evaluation over a whole set: micro and macro precision, recall and F1 of MNER, EEG and GMNER, in percent.

`strict`, the default: every post counts, pairing is one-to-one and as large as possible, and an entity with
several gold boxes is one entity that any of them satisfies; macro is over the types of the gold, EEG has
one type. `release`: the released evaluator, bug for bug (`rewards/released_evaluator.py`).

Knows nothing of models or trajectories. Always holds: predictions and gold are about the same posts in the
same order, or the call raises; under `strict` an unanswered post costs all its gold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rewards.entities import Claim, Gold
from rewards.matching import Task, candidates, maximum_pairs
from rewards.parsing import read_quad
from rewards.released_evaluator import IOU_THRESHOLD, released_tally
from rewards.tally import Tally
from sake_ray.data.boxes import Quad
from sake_ray.data.problems import FieldError

PROTOCOLS = ("strict", "release")

Post = tuple[Sequence[Claim], Sequence[Gold]]
Scores = dict[str, dict[str, float]]
"""`gmner`, `eeg`, `mner` → `micro_precision`, `micro_recall`, `micro_f1`, `macro_precision`, …"""


def evaluate(
    predictions: Sequence[Mapping[str, Any]], gold: Sequence[Mapping[str, Any]], protocol: str = "strict"
) -> Scores:
    """Score predictions against gold, both in the release's own form, boxes in original pixels.

    Args:
        predictions: one `{"img_id", "pre_entities": [{"phrase", "entity_type", "region_box"}, …]}` a post.
        gold: one `{"img_id", "gt_entities": [… and "start", "end"]}` a post, a row per box.
        protocol: "strict" or "release".

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
        claims = _rows(said, "pre_entities", f"predictions[{index}]")
        rows = _rows(true, "gt_entities", f"gold[{index}]")
        golds = _gold_rows(rows) if protocol == "release" else _gold_entities(rows)
        posts.append(([Claim(text, kind, box) for text, kind, box, _ in claims], golds))
    return score_release(posts) if protocol == "release" else score_strict(posts)


def score_strict(posts: Sequence[Post], iou_threshold: float = IOU_THRESHOLD) -> Scores:
    """The strict protocol over posts of (claims, gold entities with all their boxes)."""
    types = sorted({g.type.strip() for _, gold in posts for g in gold})
    scores = {}
    for task in Task:
        tally = Tally()
        for claims, gold in posts:
            _count_strict(claims, gold, task, iou_threshold, tally)
        scores[task.value] = tally.scores([""] if task is Task.EEG else types)
    return scores


def score_release(posts: Sequence[Post]) -> Scores:
    """The released protocol over posts of (claims, gold rows of at most one box)."""
    scores = {}
    for task in Task:
        tally = released_tally(posts, task)
        scores[task.value] = tally.scores({*tally.claimed, *tally.gold})
    return scores


def _count_strict(
    claims: Sequence[Claim], gold: Sequence[Gold], task: Task, iou_threshold: float, tally: Tally
) -> None:
    # Claim and gold of a pair have one type (none in EEG), so each type's largest pairing is part of the whole's.
    def kind(entity: Claim | Gold) -> str:
        return "" if task is Task.EEG else entity.type.strip()

    for name in sorted({kind(claim) for claim in claims} | {kind(entity) for entity in gold}):
        said = [claim for claim in claims if kind(claim) == name]
        true = [entity for entity in gold if kind(entity) == name]
        tally.claimed[name] += len(said)
        tally.gold[name] += len(true)
        tally.right[name] += maximum_pairs(candidates(said, true, task, iou_threshold), len(true))


_Row = tuple[str, str, Quad | None, tuple[object, object]]
"""Text, type, box, (start, end)."""


def _rows(post: Mapping[str, Any], name: str, where: str) -> list[_Row]:
    entities = post.get(name)
    if not isinstance(entities, list):
        raise FieldError(f"{where}.{name}", "must be a list of entities")
    return [_row(item, f"{where}.{name}[{index}]") for index, item in enumerate(entities)]


def _row(item: object, where: str) -> _Row:
    if not isinstance(item, dict):
        raise FieldError(where, "must be an object")
    text, kind, box = item.get("phrase"), item.get("entity_type"), item.get("region_box")
    if not isinstance(text, str) or not isinstance(kind, str):
        raise FieldError(where, "must have the texts phrase and entity_type")
    quad = read_quad(box) if isinstance(box, list) else None
    if not isinstance(box, list) or (box and quad is None):
        raise FieldError(f"{where}.region_box", f"must be [] or four numbers, not {box!r:.60}")
    return text, kind, quad, (item.get("start"), item.get("end"))


def _gold_rows(rows: Sequence[_Row]) -> list[Gold]:
    return [Gold(text, kind, () if box is None else (box,)) for text, kind, box, _ in rows]


def _gold_entities(rows: Sequence[_Row]) -> list[Gold]:
    """One entity per text, type and span (gold without spans: per text and type), with all its boxes."""
    found: dict[tuple[str, str, tuple[object, object]], list[Quad]] = {}
    for text, kind, box, span in rows:
        found.setdefault((text, kind, span), []).extend([] if box is None else [box])
    return [Gold(text, kind, tuple(boxes)) for (text, kind, _), boxes in found.items()]
