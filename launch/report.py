"""Make the page that shows a training run, or an evaluation, from the files it wrote.

    python launch/report.py run=DIR [output=DIR/report] [images=FOLDER] [steps=1,20,40]
    python launch/report.py evaluation=DIR [images=FOLDER]

A run's page is OUTPUT/report.html, beside it OUTPUT/trace.json for ui.perfetto.dev; it may be made while the run goes
on. An evaluation's is DIR/report.html. Each page is one file that needs no server and no network. Knows nothing of
Ray. Always holds: a page appears whole or not at all, and nothing in a run's or an evaluation's own files changes; what
is wrong is one sentence on standard error, and exit status 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.words import UsageError, read_words
from rewards.entities import Claim, Gold
from rewards.evaluation.errors import judge
from rewards.pairs import pair_post
from sake_ray.data.problems import DataError, FieldError
from sake_ray.pages import evaluation_page, run_page
from sake_ray.pages.marks import Mark
from sake_ray.pages.rows import RowView

_HELP = {
    "run": "folder of a training run (metrics.jsonl, trajectories.jsonl, …)",
    "evaluation": "folder of an evaluation (report.json, posts.jsonl)",
    "output": "folder for a run's page (default: report in the run's folder)",
    "images": "folder of the posts' pictures, ID.jpg or ID.png, for rows that do not say where theirs is",
    "steps": "training steps whose trajectories a run's page shows, as 1,20,40 (default: some over the whole run)",
}


def main(arguments: list[str]) -> int:
    """Carry out one command line; returns the exit status."""
    if {"-h", "--help", "help"} & set(arguments):
        keys = "\n".join(f"  {key:<11}{text}" for key, text in _HELP.items())
        sys.stdout.write(f"{__doc__}\nKeys:\n{keys}\n")
        return 0
    try:
        page = make_page(arguments)
    except (UsageError, DataError, FieldError, OSError) as error:  # the process boundary
        sys.stderr.write(f"report: {error}\n")
        return 2
    sys.stderr.write(f"report: {page.stat().st_size / 1e6:.1f} MB → {page}\n")
    return 0


def make_page(arguments: Sequence[str]) -> Path:
    """Make the page that the words ask for; returns its path.

    Raises:
        UsageError: words that cannot be carried out.
        DataError: a file is missing or broken.
    """
    words = read_words(arguments, _HELP)
    if ("run" in words) == ("evaluation" in words):
        raise UsageError("give one of run=DIR and evaluation=DIR")
    images = Path(words["images"]) if "images" in words else None
    if images is not None and not images.is_dir():
        raise UsageError(f"images={images}: no such folder")
    if "evaluation" in words:
        if extra := {"output", "steps"} & set(words):
            raise UsageError(f"{', '.join(sorted(extra))}: only with run=DIR")
        return evaluation_page.write(Path(words["evaluation"]), images=images)
    run = Path(words["run"])
    output = Path(words.get("output") or run / "report")
    return run_page.write(run, output, mark=verdicts, images=images, steps=_steps(words.get("steps", "")))


def verdicts(row: RowView) -> list[Mark]:
    """The verdicts on a trajectory's answer: those of an evaluation, in the order of gold."""
    claims = [Claim(claim.entity, claim.type, claim.box) for claim in row.claims]
    gold = [Gold(entity.entity, entity.type, entity.boxes) for entity in row.gold]
    found = judge(claims, gold, pair_post(claims, gold))
    marks = [Mark(verdict.kind.value, verdict.gold, verdict.claim) for verdict in found]
    return sorted(marks, key=lambda mark: (mark.gold is None, mark.gold or 0, mark.claim or 0))


def _steps(text: str) -> list[int]:
    parts = [part for part in text.split(",") if part]
    if not all(part.isdecimal() and len(part) < 12 for part in parts):
        raise UsageError(f"steps={text}: must be step numbers with commas between")
    return sorted({int(part) for part in parts})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
