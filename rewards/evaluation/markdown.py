"""A report as Markdown: compact tables, each under the line that says where its numbers come from.

Knows nothing of how a number was made. Always holds: everything shown stands in the report; a number that is not there
is a dash, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_TASKS = ("gmner", "eeg", "mner")
_METRICS = tuple(f"{mean}_{name}" for mean in ("micro", "macro") for name in ("precision", "recall", "f1"))
_SHORT = ("P", "R", "F1")
_CONFUSIONS = 12


def report_text(report: Mapping[str, Any]) -> str:
    """The whole of `report.md`."""
    line = provenance_line(report)
    parts = [
        f"# Evaluation: {report['task']}, {report['posts']} posts{_samples(report)}\n",
        *(f"{note}\n" for note in report.get("notes", ())),
        *_section("Scores", line, _scores(report)),
        *_section("Beside published figures (GMNER F1)", line, _published(report)),
        *_section("By type", line, _cells("type", report["types"])),
    ]
    if report["coarse_types"] != report["types"]:
        parts += _section("By coarse type", line, _cells("coarse type", report["coarse_types"]))
    parts += _section("Seen and unseen in training", line, _seen(report["seen"]))
    for name, part in report["slices"].items():
        parts += _section(f"Slice: {name}", line, [*_cells(name, part["cells"]), f"\nBy {part['by']}: {part['note']}."])
    parts += _section("Errors", line, _errors(report["errors"]))
    for title, lines in (
        ("Searches", _search(report["search"])),
        ("Does it search where it should?", _calibration(report["calibration"])),
        ("Cost of an answer", _cost(report["cost"])),
    ):
        parts += _section(title, line, lines) if lines else []
    return "\n".join(parts).rstrip() + "\n"


def scores_table(report: Mapping[str, Any]) -> list[str]:
    """Every protocol's scores as a Markdown table; the report's own protocol is bold."""
    head = ["protocol", "task", *(f"{mean} {name}" for mean in ("micro", "macro") for name in _SHORT)]
    rows = []
    for protocol, scores in report["protocols"].items():
        mark = f"**{protocol}**" if protocol == report["protocol"] else protocol
        rows += [[mark, task.upper(), *(number(scores[task][name]) for name in _METRICS)] for task in _TASKS]
    return table(head, rows, words=(0, 1))


def provenance_line(report: Mapping[str, Any]) -> str:
    """One line: run, checkpoint, protocol, configuration and split."""
    origin = report["provenance"]
    names = ("run", "checkpoint", "model", "protocol", "config_hash", "split", "seed", "made")
    said = [f"{name.replace('_', ' ')} `{origin[name]}`" for name in names if origin.get(name) not in ("", None)]
    return f"<sub>{' · '.join(said)}</sub>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = (0,)) -> list[str]:
    """A Markdown table, columns of `words` to the left, those of numbers to the right; cells are escaped."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [
        line(head),
        "|" + "|".join(":--" if at in words else "--:" for at in range(len(head))) + "|",
        *map(line, rows),
    ]


def number(value: float | int | None, digits: int = 2) -> str:
    """A number to show, or a dash."""
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """A share from 0 to 1 in percent, or a dash."""
    return "–" if value is None else f"{100 * value:.1f} %"


def _section(title: str, line: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}\n", *lines, f"\n{line}\n"]


def _samples(report: Mapping[str, Any]) -> str:
    return f", {report['samples']} samples each" if report.get("samples", 1) > 1 else ""


def _scores(report: Mapping[str, Any]) -> list[str]:
    lines = scores_table(report)
    confidence = report.get("confidence")
    if confidence:
        said = []
        for task in _TASKS:
            found = confidence[task]["micro_f1"]
            spread = f", sd over samples {confidence[task]['std']:.2f}" if confidence["samples"] > 1 else ""
            said.append(f"{task.upper()} {found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]{spread}")
        level = round(100 * confidence["level"])
        lines.append(
            f"\nMicro F1 with {level} % intervals ({report['protocol']}; bootstrap over posts, "
            f"{confidence['resamples']} draws, seed {confidence['seed']}): {'; '.join(said)}."
        )
    notes = [f"- *{name}*: {note}" for name, note in report["protocol_notes"].items()]
    return [*lines, "", *notes]


def _published(report: Mapping[str, Any]) -> list[str]:
    rows = [
        [f"**this evaluation ({protocol})**", number(scores["gmner"]["micro_f1"]), protocol, "this report"]
        for protocol, scores in report["protocols"].items()
    ]
    rows += [[row["name"], number(row["value"]), row["protocol"], row["source"]] for row in report["published"]]
    data = "Twitter-FMNERG" if report["task"] == "fmnerg" else "Twitter-GMNER"
    note = (
        f"\nPublished figures are of the test split of {data}; they stand beside ours only on those posts. The "
        "field's usual protocol is that of H-Index, here `strict`; which one a figure is under is said where known."
    )
    return [*table(["method", "GMNER F1", "protocol", "source"], rows, words=(0, 2, 3)), note]


def _cells(name: str, cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    with_posts = any("posts" in cell for cell in cells.values())
    head = [name, *(["posts"] if with_posts else []), "gold", "claims"]
    head += [f"{task.upper()} {short}" for task in _TASKS for short in _SHORT]
    rows = []
    for label, cell in cells.items():
        counts = [number(cell.get("posts"))] if with_posts else []
        scores = [number(cell[task][part], 1) for task in _TASKS for part in ("precision", "recall", "f1")]
        rows.append([label, *counts, number(cell["gold"]), number(cell["claims"]), *scores])
    return table(head, rows)


def _seen(seen: Mapping[str, Any]) -> list[str]:
    lines = []
    for name in ("form", "type", "both"):
        if name in seen:
            lines += [*_cells(f"by {name}", seen[name]), ""]
    return [*lines, f"{seen['note'][:1].upper()}{seen['note'][1:]}"]


def _errors(errors: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            kind,
            number(n["gold"]),
            _of(n["gold"], errors["gold"]),
            number(n["claims"]),
            _of(n["claims"], errors["claims"]),
        ]
        for kind, n in errors["kinds"].items()
    ]
    rows.append(["**all**", number(errors["gold"]), "", number(errors["claims"]), ""])
    lines = table(["kind", "gold", "share", "claims", "share"], rows)
    for name, title in (("box_kinds", "Wrong boxes"), ("boundary_kinds", "Wrong boundaries")):
        lines.append(f"\n{title}: " + ", ".join(f"{kind} {n}" for kind, n in errors[name].items()) + ".")
    pairs = errors["confusion"][:_CONFUSIONS]
    if pairs:
        said = ", ".join(f"{pair['gold']} → {pair['claimed']} {pair['count']}" for pair in pairs)
        more = len(errors["confusion"]) - len(pairs)
        lines.append(f"\nTypes taken for others: {said}" + (f" and {more} more pairs." if more else "."))
    return lines


def _of(part: int, whole: int) -> str:
    return share(part / whole if whole else None)


def _search(search: Mapping[str, Any]) -> list[str]:
    if not search["episodes"]:
        return []
    needless, missed = search["unnecessary"], search["missed"]
    rows = [
        ["episodes", number(search["episodes"])],
        ["searches an episode", number(search["per_episode"])],
        ["episodes with any", share(search["share_with_any"])],
        *([f"… {kind}", share(part["share_with_any"])] for kind, part in search["by_kind"].items()),
        [f"unnecessary: of {needless['posts']} posts with all entities known", share(needless["share_of_posts"])],
        ["… of all searches", share(needless["share_of_searches"])],
        [f"missed: of {missed['posts']} posts with an unknown entity", share(missed["share_of_posts"])],
        ["queries", number(search["queries"])],
        *([f"… {status}", number(n)] for status, n in search["statuses"].items()),
        *([f"ended: {ending or 'not said'}", number(n)] for ending, n in search["endings"].items()),
    ]
    return table(["searches", ""], rows)


def _calibration(found: Mapping[str, Any]) -> list[str]:
    if not found["posts"]:
        return []
    rows = [
        [tag, number(part["posts"]), share(part["share_with_any"]), number(part["per_episode"])]
        for tag, part in found["by_difficulty"].items()
    ]
    lines = [
        f"Searching as a guess that a post has an unknown entity, over the {found['posts']} posts whose tags say: "
        f"precision {share(found['precision'])}, recall {share(found['recall'])}, F1 {share(found['f1'])}.\n",
        *table(["hardest entity", "posts", "searched", "searches"], rows),
    ]
    if found["curve"]:
        points = [
            [number(point["hit_rate"]), number(point["posts"]), share(point["share_searched"]), share(point["right"])]
            for point in found["curve"]
        ]
        lines += ["", *table(["hit / n of the hardest entity", "posts", "searched", "answered whole"], points)]
    return lines


def _cost(cost: Mapping[str, Any]) -> list[str]:
    rows = [
        [name.replace("_", " "), *(number(part[key]) for key in ("mean", "p50", "p95")), number(part["sum"], 0)]
        for name, part in cost.items()
    ]
    return table(["a post", "mean", "p50", "p95", "sum"], rows) if rows else []
