"""Records paired once, and counted in any number of slices.

Knows nothing of files or of what a slice means. Always holds: a slice's precision is over the claims in it and its
recall over the gold entities in it, both with the pairs of the whole (strict protocol), so the slices of a partition
add up to it; where claims cannot be told to be in a slice, precision and F1 are None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.entities import Claim, Gold
from rewards.evaluation.records import GoldEntity, PostRecord
from rewards.matching import Task
from rewards.pairs import PostPairs, pair_post
from rewards.protocols import Scores, score_release, strict_scores
from rewards.released_evaluator import ReleasePost, released_counts
from sake_ray.data.twitter import entity_types

TASKS = (Task.GMNER, Task.EEG, Task.MNER)
"""In the order of a report."""

_BITS = {Task.MNER: 1, Task.EEG: 2, Task.GMNER: 4}
Label = str | None
Counts = tuple[int, int, int]
"""Right, claimed, gold."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Records, their pairs, and every gold entity and claim with the index of its record.

    `gold_right` and `claim_right` are bit sets of the tasks it is right in: 1 MNER, 2 EEG, 4 GMNER.
    """

    records: Sequence[PostRecord]
    posts: Sequence[tuple[Sequence[Claim], Sequence[Gold]]]
    pairs: Sequence[PostPairs]
    gold: Sequence[tuple[int, GoldEntity]]
    gold_right: Sequence[int]
    claims: Sequence[tuple[int, Claim]]
    claim_right: Sequence[int]

    @classmethod
    def of(cls, records: Sequence[PostRecord]) -> Scored:
        """Pair every record's claims with its gold."""
        posts = [(record.claims, [entity.gold for entity in record.gold]) for record in records]
        pairs = [pair_post(claims, gold) for claims, gold in posts]
        gold_right: list[int] = []
        claim_right: list[int] = []
        for (claims, gold), pair in zip(posts, pairs, strict=True):
            said, true = [0] * len(claims), [0] * len(gold)
            for task, bit in _BITS.items():
                for claim, entity in enumerate(pair.of(task)):
                    if entity >= 0:
                        said[claim] |= bit
                        true[entity] |= bit
            gold_right += true
            claim_right += said
        golds = [(at, entity) for at, record in enumerate(records) for entity in record.gold]
        said_all = [(at, claim) for at, record in enumerate(records) for claim in record.claims]
        return cls(records, posts, pairs, golds, gold_right, said_all, claim_right)

    def entity_cells(self, gold: Sequence[Label], claims: Sequence[Label] | None) -> dict[str, dict[str, Any]]:
        """Counts and scores by the label of each gold entity and of each claim; None is in no slice.

        Without labels of claims there is only recall.
        """
        true = Counter(zip(gold, self.gold_right, strict=True))
        said = Counter(zip(claims, self.claim_right, strict=True)) if claims is not None else None
        labels = {label for label, _ in (*true, *(said or ())) if label is not None}
        return {label: _cell(label, true, said) for label in sorted(labels)}

    def post_cells(self, labels: Sequence[Label]) -> dict[str, dict[str, Any]]:
        """Counts and scores by the label of each record."""
        cells = self.entity_cells([labels[at] for at, _ in self.gold], [labels[at] for at, _ in self.claims])
        posts = Counter(labels)
        empty = {label: _cell(label, Counter(), Counter()) for label in posts if label is not None}
        found = empty | cells
        return {label: {"posts": posts[label], **found[label]} for label in sorted(found)}

    def counts(self, protocol: str, task: str) -> list[dict[Task, Counts]]:
        """Each record's counts in each task, under a protocol."""
        if protocol == "release":
            return released_counts([released_post(record) for record in self.records], entity_types(task))
        return [
            {one: (sum(at >= 0 for at in pair.of(one)), len(record.claims), len(record.gold)) for one in TASKS}
            for record, pair in zip(self.records, self.pairs, strict=True)
        ]

    def scores(self, protocol: str, task: str) -> Scores:
        """Micro and macro scores under a protocol, in percent; with several samples a post, the mean over them.

        Raises:
            ValueError: posts have different samples.
        """
        each = []
        for chosen in self.by_sample():
            if protocol == "release":
                posts = [released_post(self.records[at]) for at in chosen]
                each.append(score_release(posts, entity_types(task)))
            else:
                each.append(strict_scores([self.posts[at] for at in chosen], [self.pairs[at] for at in chosen]))
        return {
            one.value: {name: sum(part[one.value][name] for part in each) / len(each) for name in each[0][one.value]}
            for one in TASKS
        }

    def by_sample(self) -> list[list[int]]:
        """For each sample number the records of it, all in one order of posts.

        Raises:
            ValueError: posts have different samples, or a sample twice.
        """
        found: dict[int, dict[str, int]] = {}
        for at, record in enumerate(self.records):
            posts = found.setdefault(record.sample, {})
            if record.id in posts:
                raise ValueError(f"sample {record.sample} of post {record.id} is there twice")
            posts[record.id] = at
        numbers = sorted(found)
        for number in numbers[1:]:
            if found[number].keys() != found[numbers[0]].keys():
                odd = sorted(found[number].keys() ^ found[numbers[0]].keys())
                raise ValueError(f"sample {number} is not of the posts that sample {numbers[0]} is of: {odd[:5]}")
        return [[found[number][post] for post in found[numbers[0]]] for number in numbers]


def released_post(record: PostRecord) -> ReleasePost:
    """A record as the released protocol takes it: gold row by row."""
    rows = record.extra.get("gold_rows")
    if rows is not None:
        return record.claims, [Gold(text, kind, (tuple(box),) if box else ()) for text, kind, box in rows]
    found: list[Gold] = []
    for entity in record.gold:
        found += [Gold(entity.text, entity.type, (box,)) for box in entity.boxes] or [entity.gold]
    return record.claims, found


def ratios(right_claims: int, claims: int | None, right_gold: int, gold: int) -> dict[str, float | None]:
    """Precision, recall and F1 in percent; None where there is nothing to divide by, or claims are not known."""
    recall = 100 * right_gold / gold if gold else None
    if claims is None:
        return {"precision": None, "recall": recall, "f1": None}
    precision = 100 * right_claims / claims if claims else None
    f1 = 0.0 if claims or gold else None
    if precision and recall:
        f1 = 2 * precision * recall / (precision + recall)
    return {"precision": precision, "recall": recall, "f1": f1}


def _cell(label: str, true: Mapping[Any, int], said: Mapping[Any, int] | None) -> dict[str, Any]:
    gold = [true.get((label, mask), 0) for mask in range(8)]
    claims = None if said is None else [said.get((label, mask), 0) for mask in range(8)]
    cell: dict[str, Any] = {"gold": sum(gold), "claims": None if claims is None else sum(claims)}
    for task in TASKS:
        bit = _BITS[task]
        right_gold = sum(n for mask, n in enumerate(gold) if mask & bit)
        right_claims = sum(n for mask, n in enumerate(claims or ()) if mask & bit)
        cell[task.value] = ratios(right_claims, cell["claims"], right_gold, cell["gold"])
    return cell
