"""The page of a training run: how it went, what it took, and what the policy did in some of its steps.

Made of what a run writes: metrics.jsonl, trajectories.jsonl, eval_trajectories.jsonl, config.json, stages.json,
alerts.jsonl. Knows nothing of Ray or models. Always holds: it may be made while the run goes on; every number stands in
one of those files; the page has a bounded size, and says which steps its gallery took.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from sake_ray.config.config import settings_hash
from sake_ray.data.problems import DataError
from sake_ray.pages import charts, frame
from sake_ray.pages.cards import Card, Facet, Gallery, Marker
from sake_ray.pages.document import write_page
from sake_ray.pages.markup import Html, el, join, number, table
from sake_ray.pages.rows import RowView
from sake_ray.pages.run_curves import curve_groups
from sake_ray.pages.run_files import Sampled, finite, read_lines, read_object, read_steps, run_pixels
from sake_ray.pages.timeline import Span, phases, spans_of, write_trace
from sake_ray.report import TABLE

TRAIN_STEPS, EVAL_STEPS = 12, 4
TRAIN_ROWS, EVAL_ROWS = 4_000, 2_000
_LANE_STEPS = 8
_LANE_SPANS = 3_000
MAX_TRACE = 400_000
_FACETS = (Facet("step", "Step"), Facet("kind", "Kind"), Facet("agree", "Answers of the group"))
_PHASE_COLOURS = {
    "rollout": "s0", "update": "s1", "publish": "s2", "eval": "s3", "advantage": "s4", "checkpoint": "s6",
    "generate": "s0", "search": "s5", "score": "s7", "evaluate": "s3",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder, read."""

    folder: Path
    metrics: tuple[dict[str, float], ...]
    alerts: tuple[dict[str, Any], ...]
    config: Mapping[str, Any]
    stages: tuple[Mapping[str, Any], ...]
    train: Sampled
    held_out: Sampled
    timeline: tuple[dict[str, Any], ...] = ()

    @property
    def steps(self) -> list[dict[str, float]]:
        """The rows of training steps: not the evaluation before the first."""
        return [row for row in self.metrics if any(key.startswith("time/") for key in row)]


def read_run(folder: Path, steps: Sequence[int] = ()) -> Run:
    """Read a run's folder; `steps` are those the gallery must show, or some are chosen.

    Raises:
        DataError: there is no run, or a file in it is broken; says where.
    """
    metrics = folder / "metrics.jsonl"
    if not metrics.is_file():
        raise DataError(f"{folder}: holds no metrics.jsonl; run= takes the folder of a training run")
    config = folder / "config.json"
    pixels = run_pixels(config)
    train = read_steps(folder / "trajectories.jsonl", pixels, steps=TRAIN_STEPS, rows=TRAIN_ROWS, wanted=steps)
    held_out = read_steps(folder / "eval_trajectories.jsonl", pixels, steps=EVAL_STEPS, rows=EVAL_ROWS)
    rows = tuple(finite(row) for row in read_lines(metrics))
    alerts = tuple(read_lines(folder / "alerts.jsonl"))
    return Run(folder, rows, alerts, read_object(config), _stages(folder / "stages.json"), train, held_out,
               tuple(read_lines(folder / "timeline.jsonl")))  # fmt: skip


def write(run: Path, output: Path, *, mark: Marker, images: Path | None = None, steps: Sequence[int] = ()) -> Path:
    """Write `output/report.html` and `output/trace.json`; returns the page's path.

    Args:
        run: a training run's folder.
        output: a folder; made if it is not there.
        mark: gives the verdicts on a trajectory's answer.
        images: where a post's picture `<id>.<suffix>` lies, for rows that do not name it.
        steps: training steps that the gallery shows, instead of some chosen over the whole run.

    Raises:
        DataError: as `read_run`.
    """
    read = read_run(run, steps)
    output.mkdir(parents=True, exist_ok=True)
    spans, episodes = spans_of(read.timeline, read.steps, (*read.train.rows, *read.held_out.rows))
    write_trace(output / "trace.json", [*spans[-MAX_TRACE:], *episodes])
    gallery = Gallery(run_cards(read), mark=mark, images=images, facets=_FACETS, unit="posts in a step")
    path = output / "report.html"
    write_page(
        path,
        title=f"Run {run.name}",
        body=_body(read, spans, gallery),
        blocks=gallery.blocks() if gallery.cards else (),
        scripts=frame.GALLERY_SCRIPTS if gallery.cards else frame.SCRIPTS,
        styles=frame.STYLES,
    )
    return path


def run_cards(run: Run) -> list[Card]:
    """A card for each post in a step: a group's members, or the one greedy answer to a held-out post."""

    def key(row: RowView) -> tuple[str, int, str]:
        return row.kind, row.step or 0, row.id.rpartition(".")[0] or row.id

    cards = []
    for (kind, step, group), found in groupby(sorted((*run.train.rows, *run.held_out.rows), key=key), key=key):
        rows = tuple(found)
        label = "training" if kind == "train" else "held-out"
        totals = {row.reward.get("total") for row in rows if row.reward}
        agree = [] if len(rows) < 2 else ["all earned the same" if len(totals) < 2 else "they differ"]
        cards.append(
            Card(
                id=f"{kind}.{step}.{group}",
                title=f"{label}, step {step} · {rows[0].example}"
                + (f" · {len(rows)} answers" if len(rows) > 1 else ""),
                rows=rows,
                names=tuple(f"#{index}" for index in range(len(rows))),
                extra={"step": [str(step)], "kind": [label], "agree": agree},
            )
        )
    return cards


def _body(run: Run, spans: Sequence[Span], gallery: Gallery) -> Html:
    config = run.config
    section = frame.Section
    now = time.strftime("%Y-%m-%d %H:%M", time.localtime((run.folder / "metrics.jsonl").stat().st_mtime))
    facts: dict[str, object] = {
        "run": run.folder,
        "job": config.get("job"),
        "preset": config.get("preset"),
        "model": _at(config, "model", "path"),
        "data": f"{_at(config, 'data', 'task')} {_at(config, 'data', 'subset')}".replace("None", "").strip(),
        "seed": _at(config, "run", "seed"),
        "protocol": "strict (held-out scores)",
        "config hash": settings_hash(config) if config else "no config.json",
        "steps": f"{len(run.steps)} of {_at(config, 'trainer', 'total_steps') or '?'}",
        "last written": now,
    }
    # One order of curves for a reader who knows the last page: reward, scores, search, lengths, training, engine.
    events = [(float(a["step"]), str(a.get("name"))) for a in run.alerts if isinstance(a.get("step"), int | float)]
    sections = [
        section("health", "Health", _health(run.alerts, (run.folder / "alerts.jsonl").is_file())),
        section("held-out", "Held-out posts", _held_out(run.metrics)),
        *(section(id_, title, frame.plots(found)) for id_, title, found in curve_groups(run.metrics, events)),
        section("time", "Time", _times(run, spans)),
        section("stages", "Stages", _stage_table(run.stages)),
        section("posts", "Trajectories", _trajectories(run, gallery) if gallery.cards else Html("")),
        section("settings", "Settings", _settings(config)),
    ]
    made = f"Made by launch/report.py from {run.folder}. Every number stands in the files of that folder."
    return frame.body(f"Run {run.folder.name}", "", facts, sections, made)


def _health(alerts: Sequence[Mapping[str, Any]], watched: bool) -> Html:
    if not watched:
        return el("p", "There is no alerts.jsonl: nobody watched this run for a collapse.", class_="quiet")
    if not alerts:
        return el("p", "The collapse guard had nothing to say (alerts.jsonl is empty).", class_="alert good")
    shown = [
        el(
            "div",
            el("strong", f"Step {alert.get('step', '?')}: {alert.get('name', '?')}"),
            f" – {alert.get('message', '')} ",
            el("span", f"value {number(alert.get('value'), 4)}, threshold {number(alert.get('threshold'), 4)}, "
                       f"action {alert.get('action', '?')}", class_="note"),
            class_="alert",
        )
        for alert in alerts[-50:]
    ]  # fmt: skip
    left = len(alerts) - len(shown)
    return join([*shown, el("p", f"{left} earlier warnings are in alerts.jsonl.", class_="note") if left else None])


def _held_out(rows: Sequence[Mapping[str, float]]) -> Html:
    evaluated = [row for row in rows if "eval/gmner_f1" in row]
    if not evaluated:
        return el("p", "No evaluation was made.")
    first, last = evaluated[0], evaluated[-1]
    best = max(evaluated, key=lambda row: row["eval/gmner_f1"])

    def told(key: str, name: str) -> tuple[str, str, str]:
        change = f"{last[key] - first[key]:+.3f} since step {first['step']:.0f}" if first is not last else ""
        return name, f"{last[key]:.3f}", change

    heads = [("eval/gmner_f1", "GMNER F1"), ("eval/mner_f1", "MNER F1"), ("eval/eeg_f1", "EEG F1"),
             ("eval/search_episodes", "share of posts searched")]  # fmt: skip
    columns = [first] if first is last else [first, last]
    grid = table(
        ["", *(f"step {row['step']:.0f}" for row in columns), *(["change"] if first is not last else [])],
        [
            [name.strip(), *(f"{row[key]:.3f}" for row in columns),
             *([f"{last[key] - first[key]:+.3f}"] if first is not last else [])]
            for name, key in TABLE if all(key in row for row in columns)
        ],
        caption=f"{first.get('eval/posts', 0):.0f} held-out posts, greedy, strict protocol, in 0..1; best GMNER F1 "
        f"{best['eval/gmner_f1']:.3f} at step {best['step']:.0f}",
    )  # fmt: skip
    return join([frame.tiles([told(key, name) for key, name in heads if key in last and key in first]), grid])


def _times(run: Run, spans: Sequence[Span]) -> Html:
    steps = [row["step"] for row in run.steps]
    by_phase = [phases(row) for row in run.steps]
    names = list(dict.fromkeys(name for found in by_phase for name in found))
    stack = charts.stacked(
        "Seconds of a step, by phase",
        steps,
        {name: [found.get(name, 0.0) for found in by_phase] for name in names},
        classes=_PHASE_COLOURS,
    )
    last = {row["step"] for row in run.steps[-_LANE_STEPS:]}
    own = sorted((s for s in spans if s.facts["step"] in last), key=lambda s: (s.process, s.lane))[:_LANE_SPANS]
    lanes = [(_lane(s), s.began_s, s.seconds, s.kind, _tip(s)) for s in own]
    note = "" if run.timeline else "This run has no timeline.jsonl: phases are laid end to end, so waits are not seen. "
    note += f"The last {len(last)} steps; trace.json beside this page holds the whole run (open it in ui.perfetto.dev)"
    note += ", with the single episodes of the steps below." if run.timeline else "."
    timeline = charts.lanes("Timeline", lanes, classes=_PHASE_COLOURS, note=note)
    return frame.plots([stack, timeline])


def _lane(span: Span) -> str:
    return span.process if span.process == span.lane else f"{span.process} {span.lane}"


def _tip(span: Span) -> str:
    return f"{span.kind}, step {span.facts.get('step')}: {span.seconds:.3g} s from {span.began_s:.3f} s"


def _trajectories(run: Run, gallery: Gallery) -> Html:
    told = []
    for name, sampled in (("training", run.train), ("held-out", run.held_out)):
        if len(sampled.taken) < len(sampled.steps):
            told.append(
                f"Of {len(sampled.steps)} {name} steps with trajectories these are here: "
                f"{', '.join(map(str, sampled.taken))} (steps=… chooses others)."
            )
    intro = (
        "Choose a step and a post. A training post has a group of answers: the table says how they differ, what they "
        "earned and their advantages; a column's button shows that answer."
    )
    return frame.gallery(intro, " ".join([*told, gallery.limits_note]).strip())


def _stage_table(stages: Sequence[Mapping[str, Any]]) -> Html:
    if not stages:
        return Html("")
    rows = []
    for stage in stages:
        facts = stage.get("facts")
        told = (
            ", ".join(f"{name} {number(value, 3)}" for name, value in facts.items()) if isinstance(facts, dict) else ""
        )
        rows.append([str(stage.get("stage")), "reused" if stage.get("reused") else stage.get("seconds"), told])
    return table(["stage", "seconds", "what came out"], rows, caption="Stages that this run started from")


def _settings(config: Mapping[str, Any]) -> Html:
    if not config:
        return Html("")
    lines = [
        f"{section}.{name} = {value}" if isinstance(values, dict) else f"{section} = {values}"
        for section, values in config.items()
        for name, value in (values.items() if isinstance(values, dict) else [("", values)])
    ]
    return el("details", el("summary", f"All {len(lines)} settings (config.json)"), el("pre", "\n".join(lines)))


def _stages(path: Path) -> tuple[Mapping[str, Any], ...]:
    if not path.is_file():
        return ()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    return tuple(stage for stage in value if isinstance(stage, dict)) if isinstance(value, list) else ()


def _at(config: Mapping[str, Any], section: str, name: str) -> Any:
    values = config.get(section)
    return values.get(name) if isinstance(values, dict) else None
