"""The report of an evaluation: every number of it as one dict, and the folder it is kept in.

    records = read_records(folder)                       or records_of_rows(rows, min_pixels=…, max_pixels=…)
    report = build_report(records, task="gmner", protocol="strict", provenance=Provenance(run="…"))
    write_report(folder, records, report)

Knows nothing of models or pages. Always holds: `report.json`, `report.md` and `posts.jsonl` of a folder are of one
evaluation, and a folder with a `report.json` has the other two; every number of a report follows from `posts.jsonl`,
the task and, for seen and unseen entities, the training split.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rewards.evaluation.behaviour import calibration_report, cost_report, search_report
from rewards.evaluation.errors import error_report, judge
from rewards.evaluation.inputs import TrainIndex
from rewards.evaluation.markdown import report_text
from rewards.evaluation.published import published_rows
from rewards.evaluation.record_files import POSTS, read_records, record_row, records_of_rows
from rewards.evaluation.records import PostRecord
from rewards.evaluation.resample import LEVEL, intervals, spread_of_samples
from rewards.evaluation.scored import TASKS, Scored
from rewards.evaluation.slices import coarse_cells, hardest, seen_cells, slice_report, type_cells
from rewards.f1 import f1_score
from rewards.protocols import PROTOCOLS
from sake_ray.data.json_files import write_json, write_lines
from sake_ray.data.twitter import entity_types

__all__ = [
    "Provenance",
    "TrainIndex",
    "build_report",
    "quick_scores",
    "read_records",
    "records_of_rows",
    "write_report",
]

REPORT, TEXT = "report.json", "report.md"
RESAMPLES = 2_000

PROTOCOL_NOTES = {
    "strict": "Every post counts. Claims and gold entities are paired one-to-one, as many as possible; text in lower "
    "case, type exact, box right at IoU >= 0.5 with any of the entity's gold boxes (one entity, however many boxes), "
    "or both without one. Macro is over the types of gold.",
    "release": "The released evaluator, bug for bug: each gold box is a row of its own, posts with an empty prediction "
    "or gold list drop out of GMNER and EEG (a refusal costs nothing there), a wrong box is a second false positive.",
    "hindex": "No row of its own: H-Index's protocol is strict, except that it tells spans apart by position, which an "
    "answer here does not give.",
}


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a report's numbers come from; what does not apply is empty. `made` is a UTC time in ISO 8601."""

    run: str = ""
    checkpoint: str = ""
    model: str = ""
    protocol: str = ""
    config_hash: str = ""
    split: str = ""
    seed: int = 0
    made: str = ""


def build_report(
    records: Sequence[PostRecord],
    *,
    task: str,
    protocol: str,
    provenance: Provenance,
    train: TrainIndex | None = None,
    resamples: int = RESAMPLES,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Everything `report.json` holds.

    Args:
        records: every post, with one sample or the same number of samples each.
        task: "gmner" or "fmnerg": its types are what the released evaluator lets pass, and its published figures.
        protocol: whose scores stand at the top; all of them are in `protocols`.
        provenance: where the records come from; its protocol is filled in, its seed is the bootstrap's.
        train: the training split, for seen and unseen entities.
        resamples: draws of the bootstrap behind `confidence`; 0 for none.
        notes: sentences a reader must know, such as posts that were counted as empty answers.

    Raises:
        ValueError: no records, an unknown task or protocol, or posts with different samples.
    """
    entity_types(task)
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is not one of {', '.join(PROTOCOLS)}")
    if not records:
        raise ValueError("there are no posts to report on")
    scored = Scored.of(records)
    protocols = {name: scored.scores(name, task) for name in PROTOCOLS}
    samples = scored.by_sample()
    verdicts = [judge(claims, gold, pair) for (claims, gold), pair in zip(scored.posts, scored.pairs, strict=True)]
    return {
        "task": task,
        "protocol": protocol,
        "posts": len(samples[0]),
        "samples": len(samples),
        "notes": list(notes),
        "provenance": asdict(replace(provenance, protocol=protocol)),
        **protocols[protocol],
        "protocols": protocols,
        "protocol_notes": dict(PROTOCOL_NOTES),
        "confidence": _confidence(scored, samples, protocol, task, resamples, provenance.seed),
        "types": type_cells(scored),
        "coarse_types": coarse_cells(scored),
        "seen": seen_cells(scored, train),
        "slices": slice_report(scored),
        "errors": error_report(scored, verdicts),
        "search": search_report(scored),
        "calibration": calibration_report(scored),
        "cost": cost_report(records),
        "published": published_rows(task),
    }


def quick_scores(records: Sequence[PostRecord]) -> dict[str, float]:
    """Strict micro F1 from 0 to 1, for a look during training: `gmner_f1`, `mner_f1`, `eeg_f1`.

    The same with `_unseen` (posts with an entity marked unseen), `_unknown` (posts with an unknown entity) and
    `_known` (all known), where there are such posts.
    """
    scored = Scored.of(records)
    counts = scored.counts("strict", "gmner")
    tags = [hardest(record) for record in records]
    members = {
        "": range(len(records)),
        "_unseen": [at for at, one in enumerate(records) if any(e.seen is False for e in one.gold)],
        "_unknown": [at for at, tag in enumerate(tags) if tag == "unknown"],
        "_known": [at for at, tag in enumerate(tags) if tag == "known"],
    }
    found = {}
    for suffix, chosen in members.items():
        for task in TASKS if len(chosen) else ():
            right, claimed, gold = (sum(counts[at][task][part] for at in chosen) for part in range(3))
            # Nothing to find and nothing found is no success of a policy, as in the protocols.
            found[f"{task.value}_f1{suffix}"] = f1_score(right, claimed, gold) if claimed or gold else 0.0
    return found


def write_report(folder: Path, records: Sequence[PostRecord], report: dict[str, Any]) -> None:
    """Write `posts.jsonl`, `report.md` and `report.json`, which goes last: while it is there, all are."""
    scratch = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    write_lines(scratch / POSTS, post_rows(records))
    (scratch / TEXT).write_text(report_text(report), encoding="utf-8")
    write_json(scratch / REPORT, report)
    folder.mkdir(exist_ok=True)
    (folder / REPORT).unlink(missing_ok=True)
    for name in (POSTS, TEXT, REPORT):
        os.replace(scratch / name, folder / name)
    scratch.rmdir()


def post_rows(records: Sequence[PostRecord]) -> list[dict[str, Any]]:
    """Lines of `posts.jsonl`: the records, each with `scores` (its strict F1, 0 to 1) and `verdicts`.

    A verdict is `{"kind", "claim", "gold"}`, indices into the line's own lists (`rewards.evaluation.errors`).
    """
    scored = Scored.of(records)
    rows = []
    counts = scored.counts("strict", "gmner")
    for record, post, pair, count in zip(records, scored.posts, scored.pairs, counts, strict=True):
        verdicts = [{"kind": v.kind.value, "claim": v.claim, "gold": v.gold} for v in judge(*post, pair)]
        scores = {task.value: f1_score(*count[task]) for task in TASKS}
        rows.append({**record_row(record), "scores": scores, "verdicts": verdicts})
    return rows


def read_report(folder: Path) -> dict[str, Any]:
    """The `report.json` of a folder.

    Raises:
        OSError: there is none.
        ValueError: it is not JSON.
    """
    content: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    return content


def _confidence(
    scored: Scored, samples: list[list[int]], protocol: str, task: str, resamples: int, seed: int
) -> dict[str, Any]:
    """Intervals of the protocol's micro scores, by bootstrap over posts."""
    if not resamples:
        return {}
    counts = scored.counts(protocol, task)
    tables = {one.value: [[counts[at][one] for at in chosen] for chosen in samples] for one in TASKS}
    found: dict[str, Any] = {"level": LEVEL, "resamples": resamples, "seed": seed, "samples": len(samples)}
    for name, part in intervals(tables, resamples=resamples, seed=seed).items():
        found[name] = part | spread_of_samples(tables[name])
    return found
