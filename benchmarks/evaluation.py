"""What the numbers of an evaluation cost, beside the released evaluator's nested loops written down plainly.

    python benchmarks/evaluation.py [posts=1500] [repeats=9] [out=FILE]

The posts are made up: as many entities, boxes, mistakes and refusals a post as in the released test gold. The loops
compare every prediction with every gold row and make a tensor of each box for every overlap, as the released code
does. Figures are of this machine and this run; look at the ratios. Always holds: the loops and the project's counts
give the same scores, or the run stops.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.script import words_or_exit
from rewards.entities import Claim
from rewards.evaluation.records import GoldEntity, PostRecord
from rewards.evaluation.report import Provenance, build_report
from rewards.evaluation.scored import released_post
from rewards.protocols import score_release, score_strict
from sake_ray.data.boxes import Quad
from sake_ray.data.twitter import entity_types

Overlap = Callable[[Sequence[float], Sequence[float]], float]
_METRICS = tuple(f"{mean}_{name}" for mean in ("micro", "macro") for name in ("precision", "recall", "f1"))


def naive_release(
    predictions: Sequence[Mapping[str, Any]],
    gold: Sequence[Mapping[str, Any]],
    types: Sequence[str] | None = None,
    overlap: Overlap | None = None,
) -> dict[str, dict[str, float]]:
    """The released protocol in nested loops over lists, one task after the other."""
    overlap = overlap or single_overlap
    scores = {}
    for task in ("gmner", "eeg", "mner"):
        pairs: list[tuple[str, str]] = []
        for said, true in zip(predictions, gold, strict=True):
            claims = [e for e in said["pre_entities"] if types is None or e["entity_type"] in (*types, "None-type")]
            pairs += _naive_post(claims, true["gt_entities"], task, overlap)
        scores[task] = _naive_scores(pairs)
    return scores


def _naive_post(claims: Sequence[Any], rows: Sequence[Any], task: str, overlap: Overlap) -> list[tuple[str, str]]:
    """(gold's type or "", claimed type or "") of everything that is gold or claimed."""
    if task == "mner":
        true: list[Any] = [(row["phrase"], row["entity_type"], None) for row in rows]
        said: list[Any] = [(claim["phrase"], claim["entity_type"], None) for claim in claims]
    elif not claims or not rows:
        return []
    else:
        kind = (lambda e: e["entity_type"]) if task == "gmner" else (lambda e: "any")
        true = [(row["phrase"], kind(row), at + 1 if row["region_box"] else 0) for at, row in enumerate(rows)]
        said = [(claim["phrase"], kind(claim), _naive_place(claim, rows, overlap)) for claim in claims]
        said += [(*one[:2], 0) for one in said if one not in true and any(one[:2] == row[:2] for row in true)]
    everything: list[Any] = []
    for one in true + said:
        if one not in everything:
            everything.append(one)
    return [(one[1] if one in true else "", one[1] if one in said else "") for one in everything]


def _naive_place(claim: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], overlap: Overlap) -> int:
    if not claim["region_box"]:
        return 0
    for at, row in enumerate(rows):
        large = bool(row["region_box"]) and overlap(claim["region_box"], row["region_box"]) >= 0.5
        if large and row["phrase"] == claim["phrase"]:
            return at + 1
    return -100


def _naive_scores(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    kinds = sorted({kind for pair in pairs for kind in pair if kind})
    rows = [_ratios([pair for pair in pairs if pair[0] == kind or pair[1] == kind]) for kind in kinds]
    macro = [sum(row[at] for row in rows) / len(rows) if rows else 0.0 for at in range(3)]
    return dict(zip(_METRICS, [100 * value for value in (*_ratios(pairs), *macro)], strict=True))


def _ratios(pairs: Sequence[tuple[str, str]]) -> tuple[float, float, float]:
    right = sum(true == said for true, said in pairs)
    claimed, gold = sum(bool(said) for _, said in pairs), sum(bool(true) for true, _ in pairs)
    precision, recall = right / claimed if claimed else 0.0, right / gold if gold else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if right else 0.0


def single_overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """IoU in single precision, by numpy."""
    import numpy

    one, two = numpy.array(a, numpy.float32), numpy.array(b, numpy.float32)
    sides = numpy.clip(numpy.minimum(one[2:], two[2:]) - numpy.maximum(one[:2], two[:2]), 0, None)
    shared = sides[0] * sides[1]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    union = areas[0] + areas[1] - shared
    return float(shared / union) if union > 0 else 0.0


def torch_overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """IoU of two boxes, each made a tensor first."""
    import torch

    one, two = torch.tensor([a], dtype=torch.float), torch.tensor([b], dtype=torch.float)
    low, high = torch.max(one[:, None, :2], two[:, :2]), torch.min(one[:, None, 2:], two[:, 2:])
    sides = (high - low).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    areas = [(box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (one, two)]
    return float((shared / (areas[0][:, None] + areas[1] - shared))[0, 0].item())


def made_records(count: int, seed: int = 0) -> list[PostRecord]:
    """Posts like those of the released test gold: 1.7 entities, two in five with a box, and answers half right."""
    draw = random.Random(seed)
    records = []
    for at in range(count):
        gold = tuple(_made_gold(draw) for _ in range(draw.choice((1, 1, 1, 2, 2, 3))))
        claims = [claim for entity in gold if draw.random() < 0.85 for claim in [_made_claim(draw, entity)]]
        claims += [_made_claim(draw, _made_gold(draw))] * (draw.random() < 0.3)
        answered = draw.random() < 0.97
        records.append(PostRecord(f"post_{at}", "", gold, tuple(claims) if answered else ()))
    return records


def _made_gold(draw: random.Random) -> GoldEntity:
    boxes = tuple(_made_box(draw) for _ in range(draw.choice((0, 0, 0, 1, 1) if draw.random() < 0.96 else (2, 4))))
    return GoldEntity(f"name {draw.randrange(2_000)}", draw.choice(("PER", "ORG", "LOC", "MISC")), boxes)


def _made_claim(draw: random.Random, entity: GoldEntity) -> Claim:
    box = entity.boxes[0] if entity.boxes else None
    kind = entity.type if draw.random() < 0.85 else draw.choice(("PER", "ORG", "LOC", "MISC"))
    return Claim(entity.text, kind, _made_box(draw) if draw.random() < 0.2 else box)


def _made_box(draw: random.Random) -> Quad:
    x, y = draw.randrange(400), draw.randrange(300)
    return float(x), float(y), float(x + draw.randrange(20, 200)), float(y + draw.randrange(20, 200))


def best_of(work: Callable[[], object], repeats: int) -> float:
    """CPU seconds of the quickest of some calls: the machine may be busy with something else."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def measure(count: int, repeats: int) -> dict[str, Any]:
    """CPU seconds of each way to score `count` posts, and how many times the loops take.

    Raises:
        RuntimeError: the loops and the project's counts differ.
    """
    records = made_records(count)
    released = [released_post(record) for record in records]
    posts = [(record.claims, [entity.gold for entity in record.gold]) for record in records]
    said = [{"pre_entities": [_as_row(c.text, c.type, c.box) for c in claims]} for claims, _ in released]
    true = [{"gt_entities": [_as_row(g.text, g.type, *g.boxes) for g in rows]} for _, rows in released]
    types = tuple(entity_types("gmner"))
    ours, loops = score_release(released, types), naive_release(said, true, types)
    if any(abs(ours[task][name] - value) > 1e-9 for task in loops for name, value in loops[task].items()):
        raise RuntimeError(f"the nested loops give {loops}, the project {ours}")
    torch_overlap((0, 0, 1, 1), (0, 0, 1, 1))  # its import is not the loops' time
    seconds = {
        "nested loops, a tensor a box": best_of(lambda: naive_release(said, true, types, torch_overlap), 3),
        "nested loops, numpy a box": best_of(lambda: naive_release(said, true, types), 3),
        "release": best_of(lambda: score_release(released, types), repeats),
        "strict": best_of(lambda: score_strict(posts), repeats),
        "whole report": best_of(lambda: _report(records, 2_000), repeats),
        "whole report, no intervals": best_of(lambda: _report(records, 0), repeats),
    }
    loop = seconds["nested loops, a tensor a box"]
    return {
        "posts": count,
        "entities": sum(len(record.gold) for record in records),
        "seconds": seconds,
        "loops_over": {name: loop / value for name, value in seconds.items()},
    }


def _report(records: Sequence[PostRecord], resamples: int) -> dict[str, Any]:
    return build_report(records, task="gmner", protocol="release", provenance=Provenance(), resamples=resamples)


def _as_row(text: str, kind: str, box: Quad | None = None) -> dict[str, Any]:
    return {"phrase": text, "entity_type": kind, "region_box": list(box or ())}


def main(arguments: list[str]) -> int:
    """Measure, print, and write where asked to."""
    words = words_or_exit(arguments, ("posts", "repeats", "out"), __doc__)
    found = measure(int(words.get("posts", "1500")), int(words.get("repeats", "9")))
    sys.stdout.write(f"{found['posts']} posts, {found['entities']} gold entities\n")
    for name, seconds in found["seconds"].items():
        sys.stdout.write(f"{name:<30}{1000 * seconds:>10.1f} ms {found['loops_over'][name]:>8.1f} x\n")
    if words.get("out"):
        Path(words["out"]).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
