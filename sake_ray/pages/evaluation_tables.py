"""The parts of an evaluation's report as tables and plots.

Knows nothing of files. Always holds: a number that is not there is a dash; texts of the report stay texts; percent is
said where a number is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sake_ray.pages import charts, frame
from sake_ray.pages.marks import KINDS
from sake_ray.pages.markup import Html, el, join, number, table

_TASKS = {"gmner": "GMNER", "mner": "MNER", "eeg": "EEG"}
_MEANT = {"gmner": "text, type and box", "mner": "text and type", "eeg": "text and box"}
_METRICS = [f"{mean}_{part}" for mean in ("micro", "macro") for part in ("precision", "recall", "f1")]
_PARTS = {"precision": "P", "recall": "R", "f1": "F1"}
_MOST_CONFUSIONS = 15


def as_dict(value: Any) -> dict[str, Any]:
    """A part of a report, empty where it is none."""
    return value if isinstance(value, dict) else {}


def score_section(report: Mapping[str, Any]) -> Html:
    """Headline numbers, all protocols side by side, what each of them means, and what to know before reading them."""
    warnings = [el("p", str(note), class_="alert") for note in report.get("notes") or []]
    chosen, protocols = str(report.get("protocol", "")), as_dict(report.get("protocols"))
    sure = as_dict(report.get("confidence"))
    heads = []
    for task, name in _TASKS.items():
        value = as_dict(report.get(task)).get("micro_f1")
        interval = as_dict(as_dict(sure.get(task)).get("micro_f1"))
        words = f"{_MEANT[task]}; {chosen}"
        if interval:
            low, high = (number(interval.get(end)) for end in ("low", "high"))
            words += f"; {100 * sure.get('level', 0):.0f} % interval {low} to {high}"
        heads.append((f"{name} F1, %", number(value), words))
    rows: list[list[object]] = []
    marked: int | None = None
    for protocol, scores in protocols.items():
        for task, name in _TASKS.items():
            part = as_dict(as_dict(scores).get(task))
            marked = len(rows) if protocol == chosen and task == "gmner" else marked
            rows.append([f"{name}, {protocol}", *(part.get(metric) for metric in _METRICS)])
    grid = table(
        ["", *(f"{mean} {short}" for mean in ("micro", "macro") for short in _PARTS.values())], rows,
        caption="All protocols side by side, in percent; the headline's row is marked", mark=marked,
    )  # fmt: skip
    notes = [
        el("div", el("dt", name), el("dd", str(note))) for name, note in as_dict(report.get("protocol_notes")).items()
    ]
    return join([*warnings, frame.tiles(heads), grid, el("dl", *notes, class_="notes") if notes else None])


def published_table(report: Mapping[str, Any]) -> Html:
    """Published figures beside this evaluation's, best first; those without a figure last."""
    rows: list[tuple[float | None, list[object], bool]] = []
    for protocol, scores in as_dict(report.get("protocols")).items():
        value = as_dict(as_dict(scores).get("gmner")).get("micro_f1")
        rows.append((value, ["this evaluation", value, protocol, "this report"], protocol == report.get("protocol")))
    for item in report.get("published") or []:
        row = as_dict(item)
        value = row.get("value")
        rows.append((value, [str(row.get("name")), value, str(row.get("protocol")), str(row.get("source"))], False))
    rows.sort(key=lambda row: -1.0 if row[0] is None else row[0], reverse=True)
    at = next((index for index, row in enumerate(rows) if row[2]), None)
    data = "Twitter-FMNERG" if report.get("task") == "fmnerg" else "Twitter-GMNER"
    return table(
        ["method", "GMNER F1, %", "protocol", "source"], [row[1] for row in rows], mark=at,
        caption=f"Published figures are of the test split of {data}: they stand beside ours only on those posts",
    ) if report.get("published") else Html("")  # fmt: skip


def cell_table(name: str, cells: Mapping[str, Any], caption: str) -> Html:
    """Counts and scores by label; "" without any."""
    if not cells:
        return Html("")
    posts = ["posts"] if any("posts" in as_dict(cell) for cell in cells.values()) else []
    head = [
        name,
        *posts,
        "gold",
        "claims",
        *(f"{task} {short}" for task in _TASKS.values() for short in _PARTS.values()),
    ]
    rows = []
    for label, value in cells.items():
        cell = as_dict(value)
        scores = [as_dict(cell.get(task)).get(part) for task in _TASKS for part in _PARTS]
        rows.append([label.replace("_", " "), *(cell.get(key) for key in posts), cell.get("gold"), cell.get("claims"),
                     *(None if score is None else float(score) for score in scores)])  # fmt: skip
    return table(head, rows, caption=f"{caption}, in percent")


def type_plot(types: Mapping[str, Any]) -> Html:
    """Precision against recall of each type."""
    points = {}
    for name, cell in types.items():
        part = as_dict(as_dict(cell).get("gmner"))
        if part.get("precision") is not None and part.get("recall") is not None:
            points[name] = (part["recall"] / 100, part["precision"] / 100)
    return charts.scatter("Precision and recall by type (GMNER)", points, x_label="recall", y_label="precision")


def error_section(errors: Mapping[str, Any]) -> Html:
    """What went wrong, as counts that add up."""
    kinds = {name: as_dict(count) for name, count in as_dict(errors.get("kinds")).items()}
    if not kinds:
        return Html("")
    gold, claims = errors.get("gold") or 0, errors.get("claims") or 0
    rows = [
        [KINDS.get(kind, kind), count.get("gold"), _share(count.get("gold"), gold), count.get("claims"),
         _share(count.get("claims"), claims)]
        for kind, count in kinds.items()
    ]  # fmt: skip
    rows.append(["all", gold, "", claims, ""])
    counts = {
        KINDS.get(kind, kind): max(count.get("gold") or 0, count.get("claims") or 0) for kind, count in kinds.items()
    }
    colours = {KINDS.get(kind, kind): f"k-{kind}" for kind in kinds}
    plot = charts.bars("Verdicts on gold entities and claims", counts, classes=colours,
                       note="A pair of a gold entity and a claim counts once.")  # fmt: skip
    parts = [
        _stack("How boxes are wrong", errors.get("box_kinds")),
        _stack("Wrong spans", errors.get("boundary_kinds")),
    ]
    confused = [as_dict(pair) for pair in errors.get("confusion") or []]
    confusion = table(
        ["gold → answered", "entities"],
        [[f"{pair.get('gold')} → {pair.get('claimed')}", pair.get("count")] for pair in confused[:_MOST_CONFUSIONS]],
        caption=f"Types taken for others (the first {_MOST_CONFUSIONS} of {len(confused)})"
        if len(confused) > _MOST_CONFUSIONS else "Types taken for others",
    ) if confused else Html("")  # fmt: skip
    grid = table(
        ["verdict", "gold", "share of gold", "claims", "share of claims"], rows,
        caption="Every gold entity and every claim has exactly one verdict, so the columns add up", mark=len(rows) - 1,
    )  # fmt: skip
    return join([frame.plots([plot, *parts]), grid, confusion])


def search_section(search: Mapping[str, Any]) -> Html:
    """How the policy searched."""
    if not search.get("episodes"):
        return Html("")
    kinds, unneeded, missed = (as_dict(search.get(name)) for name in ("by_kind", "unnecessary", "missed"))
    heads = frame.tiles(
        [
            ("episodes with a search", _percent(search.get("share_with_any")), f"of {number(search['episodes'])}"),
            ("searches an episode", number(search.get("per_episode")),
             f"{number(search.get('queries'))} queries in all"),
            ("unnecessary", _percent(unneeded.get("share_of_posts")),
             f"of {unneeded.get('posts')} posts with all entities known were searched"),
            ("missed", _percent(missed.get("share_of_posts")),
             f"of {missed.get('posts')} posts with an unknown entity were wrong on it without a search"),
        ]
    )  # fmt: skip
    by_kind = {
        kind: part["share_with_any"]
        for kind, value in kinds.items()
        if (part := as_dict(value)).get("share_with_any") is not None
    }
    plots = [
        charts.bars("Share of episodes with a search of a kind", by_kind, full=1.0),
        _stack("What became of the queries", search.get("statuses")),
        _stack("Why queries failed", search.get("failures")),
        _stack("How episodes ended", search.get("endings")),
    ]
    return join([heads, frame.plots(plots)])


def cost_table(cost: Mapping[str, Any]) -> Html:
    """What an answer took."""
    if not cost:
        return Html("")
    keys = ("mean", "p50", "p95", "sum")
    # A single number (a price) is a mean.
    spread = {name: part if isinstance(part, dict) else {"mean": part} for name, part in cost.items()}
    rows = [[name.replace("_", " "), *(part.get(key) for key in keys)] for name, part in spread.items()]
    return table(["a post", "mean", "median", "95th percentile", "sum"], rows, caption="What an answer took")


def _stack(title: str, counts: Any) -> Html:
    found = {name.replace("_", " "): value for name, value in as_dict(counts).items() if isinstance(value, int | float)}
    return charts.bars(title, found) if any(found.values()) else Html("")


def _share(part: Any, whole: float) -> str:
    return _percent(part / whole) if whole and isinstance(part, int | float) else "–"


def _percent(value: Any) -> str:
    return "–" if not isinstance(value, int | float) else f"{100 * value:.1f} %"
