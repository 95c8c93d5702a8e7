"""Evaluate a model, a served model or a file of answers, and compare evaluations.

    python launch/evaluate.py model=mini|MODEL|RUN|CHECKPOINT output=DIR [split=test|dev|train] [section.field=value …]
    python launch/evaluate.py endpoint=http://HOST/v1 served=NAME output=DIR [split=…] [section.field=value …]
    python launch/evaluate.py predictions=P.json gold=G.json task=gmner|fmnerg output=DIR [protocol=strict|release]
    python launch/evaluate.py predictions=RUN/eval_trajectories.jsonl task=… output=DIR [step=N]
    python launch/evaluate.py compare=DIR_A,DIR_B [output=DIR] [unpaired=drop] [seed=0]

The first two play episodes, and go on where they were cut off (launch/evaluating.py; --help beside model= lists their
words). The third takes a JSON list or JSON lines of {"img_id", "pre_entities": [{"phrase", "entity_type",
"region_box"}]} or of the release's {"img_id", "prediction": [{"entity", "type", "box2d"}]}, boxes in original pixels
(in those of the sized picture where a post carries image_size_info); posts may come in any order. The fourth takes what
a run wrote, with the gold of the run's own rows unless gold= is given. Each writes DIR/report.json, report.md,
posts.jsonl and the page report.html. The last prints a table and writes compare.json and compare.md. Knows nothing of
how a score is made. Always holds: what is written appears whole or not at all; what cannot be done is one sentence on
standard error and exit status 2.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

if __package__ in (None, ""):  # run as a file from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.words import UsageError, read_words
from rewards.evaluation.compare import compare_folders, compare_text
from rewards.evaluation.inputs import join, merge_gold, read_gold, read_predictions, read_train, with_tags
from rewards.evaluation.markdown import scores_table
from rewards.evaluation.record_files import MAX_LINE, is_run_row, read_records
from rewards.evaluation.records import PostRecord
from rewards.evaluation.report import Provenance, build_report, write_report
from rewards.protocols import PROTOCOLS
from sake_ray.coldstart.tag_files import read_tags
from sake_ray.config.config import settings_hash
from sake_ray.data.json_files import read_object, read_values, write_json, write_whole
from sake_ray.data.problems import DataError
from sake_ray.data.twitter import TASKS
from sake_ray.pages import evaluation_page

_PREDICTION_HELP = {
    "predictions": "what was answered (required)",
    "gold": "a JSON list or JSON lines in the released form, or a data set's folder (required, but for a run's file)",
    "task": "gmner or fmnerg (required)",
    "output": "folder to write (required)",
    "protocol": "whose scores stand at the top: strict (default) or release; the report has both",
    "split": "which split of a gold folder: train, dev or test (default)",
    "train": "training split, file or folder: scores on seen and unseen entities",
    "tags": "tags.jsonl of launch/tag_difficulty.py: difficulty and hits of gold's entities",
    "images": "folder of the pictures, for the pages (default: images beside gold)",
    "missing": "empty: a post without a prediction is an empty answer, counted (default: refused)",
    "malformed": "drop: an entity without text, type or box is left out, counted (default: refused)",
    "step": "which step of a run's file (default: its last)",
    "seed": "of the bootstrap (default 0)",
}
_COMPARE_HELP = {
    "compare": "two folders that evaluations wrote, with a comma between (required)",
    "output": "folder to write (default: nothing is written)",
    "unpaired": "drop: posts that only one has are left out, counted (default: refused)",
    "seed": "of the bootstrap (default 0)",
}


def main(arguments: list[str]) -> int:
    """Carry out one command line; returns the exit status."""
    if {"model", "endpoint"} & {word.partition("=")[0] for word in arguments}:
        from launch.evaluating import main as evaluate_policy  # a job: it brings Ray along

        return evaluate_policy(arguments)
    if {"-h", "--help", "help"} & set(arguments):
        sys.stdout.write(_help())
        return 0
    try:
        name = next((word.partition("=")[0] for word in arguments if word.partition("=")[0] in MODES), None)
        if name is None:
            modes = ", ".join(f"{mode}=…" for mode in ("model", "endpoint", *MODES))
            raise UsageError(f"one of {modes} is missing; --help lists the keys")
        MODES[name](arguments)
    except (UsageError, DataError, OSError) as error:  # the process boundary
        sys.stderr.write(f"evaluate: {error}\n")
        return 2
    return 0


def evaluate_predictions(arguments: Sequence[str]) -> None:
    """`predictions=…`: score a file of answers and write the report.

    Raises:
        UsageError: a word that is not understood.
        DataError: a file that cannot be read, or posts that do not fit together.
    """
    words = read_words(arguments, _PREDICTION_HELP, required=("predictions", "task", "output"))
    task = _one_of(words, "task", tuple(TASKS))
    protocol = _one_of(words, "protocol", PROTOCOLS, "strict")
    loaded = _load(words, task)
    records = loaded.records
    if words.get("tags"):
        records = with_tags(records, read_tags(Path(words["tags"])), words["tags"])
    train = read_train(Path(words["train"]), task=task) if words.get("train") else None
    origin = Provenance(
        run=loaded.run,
        checkpoint=loaded.checkpoint,
        model=loaded.model,
        config_hash=loaded.config_hash,
        split=words.get("gold", "the run's held-out posts")
        + (f", {_split(words)}" if words.get("gold") and Path(words["gold"]).is_dir() else ""),
        seed=_count(words, "seed", 0),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    try:
        report = build_report(records, task=task, protocol=protocol, provenance=origin, train=train, notes=loaded.notes)
    except ValueError as error:
        raise DataError(f"{words['predictions']}: {error}") from error
    output = Path(words["output"])
    write_report(output, records, report)
    evaluation_page.write(output, images=Path(words["images"]) if words.get("images") else None)
    for note in loaded.notes:
        sys.stderr.write(f"evaluate: {note}\n")
    sys.stdout.write("\n".join(scores_table(report)) + "\n")
    sys.stderr.write(f"evaluate: {report['posts']} posts → {output}\n")


def compare(arguments: Sequence[str]) -> None:
    """`compare=A,B`: the difference of two evaluations, printed and, where asked for, written.

    Raises:
        UsageError: a word that is not understood.
        DataError: folders that cannot be compared.
    """
    words = read_words(arguments, _COMPARE_HELP, required=("compare",))
    folders = [Path(text.strip()) for text in words["compare"].split(",") if text.strip()]
    if len(folders) != 2:
        raise UsageError(f"compare={words['compare']}: must be two folders with a comma between")
    unpaired = _one_of(words, "unpaired", ("stop", "drop"), "stop")
    compared = compare_folders(folders[0], folders[1], unpaired=unpaired, seed=_count(words, "seed", 0))
    text = compare_text(compared)
    if words.get("output"):
        folder = Path(words["output"])
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "compare.md", text)
        write_json(folder / "compare.json", compared)
        sys.stderr.write(f"evaluate: {compared['posts']} posts → {folder / 'compare.json'}\n")
    sys.stdout.write(text)


MODES: Mapping[str, Callable[[Sequence[str]], None]] = {
    "predictions": evaluate_predictions,
    "compare": compare,
}
"""What is done, by the key whose word is there; each reads the whole command line."""


@dataclass(frozen=True)
class _Loaded:
    records: list[PostRecord]
    run: str
    config_hash: str
    checkpoint: str = ""
    model: str = ""
    notes: tuple[str, ...] = ()


def _load(words: Mapping[str, str], task: str) -> _Loaded:
    path = Path(words["predictions"])
    first = next(iter(read_values(path, max_value_chars=MAX_LINE)), (0, None))[1]
    missing = _one_of(words, "missing", ("stop", "empty"), "stop")
    gold = None
    if words.get("gold"):
        images = Path(words["images"]) if words.get("images") else None
        gold = read_gold(Path(words["gold"]), task=task, split=_split(words), images=images)
    if is_run_row(first):
        return _load_run(path, words, gold, missing)
    if gold is None:
        raise UsageError("gold=… is missing: only a run's own file brings its gold along")
    if words.get("step"):
        raise UsageError("step=… picks a step of a run's file, which predictions= is not")
    answers, dropped = read_predictions(path, malformed=_one_of(words, "malformed", ("stop", "drop"), "stop"))
    records = join(gold, answers, missing=missing)
    notes = _absent(len(gold) - len(answers))
    if dropped:
        notes += (f"{dropped} malformed entities were left out (malformed=drop).",)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return _Loaded(records, str(path), f"sha256:{digest}", notes=notes)


def _load_run(path: Path, words: Mapping[str, str], gold: list[PostRecord] | None, missing: str) -> _Loaded:
    records = read_records(path, _count(words, "step", 0) if words.get("step") else None)
    step = records[0].extra.get("step")
    notes: tuple[str, ...] = ()
    if gold is not None:
        notes = _absent(len(gold) - len({record.id for record in records}))
        records = merge_gold(records, gold, missing=missing)
    config = read_object(path.with_name("config.json"))
    model = config.get("model", {}).get("path", "")
    return _Loaded(records, str(path.parent), settings_hash(config), f"step {step}", str(model), notes)


def _absent(count: int) -> tuple[str, ...]:
    return (f"{count} posts have no prediction and count as empty answers (missing=empty).",) if count > 0 else ()


def _split(words: Mapping[str, str]) -> str:
    return words.get("split", "test")


def _one_of(words: Mapping[str, str], key: str, known: Sequence[str], default: str = "") -> str:
    value = words.get(key, default)
    if value not in known:
        raise UsageError(f"{key}={value}: must be one of {', '.join(known)}")
    return value


def _count(words: Mapping[str, str], key: str, default: int) -> int:
    text = words.get(key, str(default))
    if not text.isdecimal():
        raise UsageError(f"{key}={text}: must be a whole number from 0")
    return int(text)


def _help() -> str:
    parts = [__doc__ or ""]
    for keys in (_PREDICTION_HELP, _COMPARE_HELP):
        parts.append("\n".join(f"  {key:<12}{text}" for key, text in keys.items()))
    return f"{parts[0]}\nKeys of predictions=…\n{parts[1]}\n\nKeys of compare=…\n{parts[2]}\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
