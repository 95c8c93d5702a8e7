"""The page of an evaluation: its report.json as tables and plots, its posts.jsonl as a gallery.

Knows nothing of how a number is made. Always holds: every number stands in report.json, every verdict in posts.jsonl;
a part that the report does not have has no section; the page is written beside the two files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sake_ray.data.json_files import read_values
from sake_ray.data.problems import DataError, FieldError
from sake_ray.pages import charts, frame
from sake_ray.pages.cards import Card, Gallery
from sake_ray.pages.document import write_page
from sake_ray.pages.evaluation_tables import (
    as_dict,
    cell_table,
    cost_table,
    error_section,
    published_table,
    score_section,
    search_section,
    type_plot,
)
from sake_ray.pages.markup import Html, el, join
from sake_ray.pages.rows import RowView, read_view
from sake_ray.pages.run_files import read_object

PAGE, REPORT, POSTS = "report.html", "report.json", "posts.jsonl"
_MAX_LINE = 16 * 1024 * 1024
_WHENCE = ("run", "checkpoint", "model", "protocol", "config_hash", "split", "seed", "made")


def write(folder: Path, *, images: Path | None = None) -> Path:
    """Write `folder/report.html` from `report.json` and `posts.jsonl`; returns its path.

    Args:
        folder: an evaluation's.
        images: where a post's picture `<id>.<suffix>` lies, for posts that do not name it.

    Raises:
        DataError: a file is missing or broken; says where.
    """
    report = read_object(folder / REPORT)
    if not report:
        raise DataError(f"{folder / REPORT}: no such file; evaluation= takes the folder of an evaluation")
    cards = read_cards(folder / POSTS)
    try:
        gallery = Gallery(cards, images=images)
    except FieldError as error:
        raise DataError(f"{folder / POSTS}: {error}") from error
    path = folder / PAGE
    write_page(
        path,
        title=_title(report),
        body=_body(folder, report, gallery),
        blocks=gallery.blocks() if gallery.cards else (),
        scripts=frame.GALLERY_SCRIPTS if gallery.cards else frame.SCRIPTS,
        styles=frame.STYLES,
    )
    return path


def read_cards(path: Path) -> list[Card]:
    """A card for each post of a posts.jsonl, with all its samples; [] where there is no such file.

    Raises:
        DataError: a line is wrong.
    """
    if not path.is_file():
        return []
    found: dict[str, list[RowView]] = {}
    for line, value in read_values(path, max_value_chars=_MAX_LINE):
        try:
            row = read_view(value)
        except FieldError as error:
            raise DataError(f"{path}:{line}: {error}") from error
        found.setdefault(row.example, []).append(row)
    return [
        Card(id_, id_ + (f" · {len(rows)} samples" if len(rows) > 1 else ""), tuple(rows), _names(rows))
        for id_, rows in found.items()
    ]


def _names(rows: Sequence[RowView]) -> tuple[str, ...]:
    return tuple(f"sample {row.sample}" for row in rows)


def _title(report: Mapping[str, Any]) -> str:
    origin = as_dict(report.get("provenance"))
    what = origin.get("run") or origin.get("model") or ""
    return f"Evaluation, {report.get('task', '')}" + (f": {Path(str(what)).name}" if what else "")


def _body(folder: Path, report: Mapping[str, Any], gallery: Gallery) -> Html:
    origin = as_dict(report.get("provenance"))
    facts = {name.replace("_", " "): origin.get(name) for name in _WHENCE}
    facts |= {"task": report.get("task"), "posts": report.get("posts")}
    if report.get("samples", 1) != 1:
        facts["samples a post"] = report["samples"]
    section = frame.Section
    sections = [
        section("scores", "Scores", score_section(report)),
        section("published", "Published figures", published_table(report)),
        section("types", "Types", _types(report)),
        section("seen", "Seen and unseen", _seen(as_dict(report.get("seen")))),
        section("slices", "Slices", _slices(as_dict(report.get("slices")))),
        section("errors", "Errors", error_section(as_dict(report.get("errors")))),
        section("search", "Searches", search_section(as_dict(report.get("search")))),
        section("calibration", "Calibration", _calibration(as_dict(report.get("calibration")))),
        section("cost", "Cost", cost_table(as_dict(report.get("cost")))),
        section("posts", "Posts", _posts(gallery)),
    ]
    made = f"Made from {folder / REPORT} and {POSTS}, which hold every number shown."
    return frame.body(_title(report), "", facts, sections, made)


def _types(report: Mapping[str, Any]) -> Html:
    types, coarse = as_dict(report.get("types")), as_dict(report.get("coarse_types"))
    if not types:
        return Html("")
    parts = [cell_table("type", types, "Scores by type (strict): recall by the type of gold, precision by the claim's")]
    if coarse and coarse != types:
        parts.insert(
            0, cell_table("coarse type", coarse, "Scores by coarse type (strict); the fine type must be right")
        )
    plot = type_plot(coarse if coarse and len(types) > 12 else types)
    return join([frame.plots([plot]), *parts])


def _seen(seen: Mapping[str, Any]) -> Html:
    names = {"form": "by surface form", "type": "by type", "both": "by form and type together"}
    parts = [
        cell_table(title, as_dict(seen.get(name)), f"Scores {title}") for name, title in names.items() if name in seen
    ]
    note = str(seen.get("note", ""))
    return join([*parts, el("p", note, class_="note") if note else None])


def _slices(slices: Mapping[str, Any]) -> Html:
    parts = []
    for name, value in slices.items():
        part = as_dict(value)
        title = name.replace("_", " ")
        caption = f"{title[:1].upper()}{title[1:]}, by {part.get('by', '?')}: {part.get('note', '')}"
        parts.append(cell_table(title, as_dict(part.get("cells")), caption))
    return join(parts)


def _calibration(found: Mapping[str, Any]) -> Html:
    if not found.get("posts"):
        return Html("")

    def percent(name: str) -> str:
        value = found.get(name)
        return "–" if value is None else f"{100 * value:.1f} %"

    words = f"of {found.get('posts')} posts whose tags decide it"
    heads = frame.tiles(
        [
            ("precision of searching", percent("precision"), "searched posts that have an unknown entity"),
            ("recall of searching", percent("recall"), "posts with an unknown entity that were searched"),
            ("F1 of searching", percent("f1"), words),
        ]
    )
    curve = [as_dict(point) for point in found.get("curve") or []]
    lines = {
        name: [(p["hit_rate"], p[key]) for p in curve if p.get(key) is not None]
        for name, key in (("searched", "share_searched"), ("answered whole", "right"))
    }
    plot = charts.unit_chart(
        "Does it search where it does not know?", lines,
        x_label="hit / n of the hardest entity", y_label="share of posts",
        note="A policy that knows what it knows starts high at the left and falls to the right.",
    )  # fmt: skip
    by = {tag: as_dict(part) for tag, part in as_dict(found.get("by_difficulty")).items()}
    searched = {
        f"{tag} ({part.get('posts')} posts)": part["share_with_any"]
        for tag, part in by.items()
        if part.get("share_with_any") is not None
    }
    bars = charts.bars("Share of posts searched, by hardest entity", searched, full=1.0)
    return join([heads, frame.plots([plot, bars])])


def _posts(gallery: Gallery) -> Html:
    if not gallery.cards:
        return Html("")
    intro = (
        "Gold boxes are solid, answered ones dashed; a colour stands for a kind of verdict, which the text names. "
        "Press ? for keys."
    )
    return frame.gallery(intro, gallery.limits_note)
