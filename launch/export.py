"""A checkpoint of a run as a Hugging Face folder, for transformers, vLLM or model.path=….

    python launch/export.py run=RUN output=DIR [which=latest|best] [dtype=bfloat16|float32]
    python launch/export.py checkpoint=RUN/checkpoints/step-000012 output=DIR [dtype=bfloat16|float32]

which=latest (the default) takes the run's newest checkpoint, which=best the one with the best evaluation. dtype is what
the weights are written as: bfloat16 by default, float32 for what the learner has, bit for bit. The run may be going on:
it is only read. Needs neither Ray nor a GPU, but memory for the model twice over in float32. Knows nothing of how a
checkpoint is read. Always holds: a folder that is there is never written over; DIR appears whole or not at all; wrong
input is one sentence on standard error, and exit status 2.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.model_source import find_model
from launch.run_checkpoints import read_best
from launch.words import UsageError, read_words
from sake_ray.data.problems import DataError
from sake_ray.trainer.checkpoint import MANIFEST, lacks_room

_KEYS = ("run", "checkpoint", "which", "output", "dtype")
_WHICH = ("latest", "best")
_DTYPES = ("bfloat16", "float32")


def main(arguments: Sequence[str]) -> int:
    """Carry out one command line; returns the exit status."""
    if {"-h", "--help", "help"} & set(arguments):
        sys.stdout.write(__doc__ or "")
        return 0
    logging.basicConfig(level=logging.WARNING, format="%(name)s %(message)s")
    try:
        words = read_words(arguments, _KEYS, required=("output",))
        dtype = _one_of(_DTYPES, "dtype", words.get("dtype", _DTYPES[0]))
        folder, output = _checkpoint(words), Path(words["output"]).resolve()
        step = export(folder, output, dtype)
    except (UsageError, DataError, OSError) as error:  # the process boundary
        sys.stderr.write(f"export: {error}\n")
        return 2
    sys.stderr.write(f"export: {folder} (step {step}, {dtype}) → {output}\n")
    return 0


def export(checkpoint: Path, output: Path, dtype: str) -> int:
    """Write the policy of a run's checkpoint to the new folder `output`; returns the checkpoint's step.

    Raises:
        UsageError: `checkpoint` is none of a run's, or `output` is taken or within it.
        DataError: it is damaged, does not fit the model its run started from, or there is no room for the folder.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise UsageError(f"output={output}: is there already; give a new folder")
    if output.is_relative_to(checkpoint):
        raise UsageError(f"output={output}: lies within the checkpoint, which must stay as it is; give another folder")
    source = find_model(str(checkpoint))
    if source.learner is None:
        raise UsageError(f"checkpoint={checkpoint}: a model's folder already, there is nothing to export")
    from actors.checkpoint_export import export_checkpoint

    try:
        return export_checkpoint(source.learner, source.folder, output, dtype)
    except ValueError as error:
        raise DataError(str(error)) from error
    except Exception as error:
        if not lacks_room(error):
            raise
        raise DataError(f"output={output}: no room for the model there; free some, or give another folder") from error


def _checkpoint(words: dict[str, str]) -> Path:
    """The checkpoint folder that a command line names."""
    run, given = words.get("run"), words.get("checkpoint")
    if bool(run) == bool(given):
        raise UsageError("give either run=RUN or checkpoint=DIR; see --help")
    if given:
        if "which" in words:
            raise UsageError("which=… is for run=RUN; checkpoint=DIR names one already")
        folder = Path(given).resolve()
        if not (folder / MANIFEST).is_file():
            raise UsageError(f"checkpoint={given}: no checkpoint is there ({MANIFEST} is missing)")
        return folder
    folder = Path(str(run)).resolve()
    if not folder.is_dir():
        raise UsageError(f"run={run}: there is no such folder")
    if _one_of(_WHICH, "which", words.get("which", _WHICH[0])) == "best":
        try:
            best = read_best(folder)
        except ValueError as error:
            raise DataError(f"{folder}/checkpoints/best.json: {error}") from error
        if best is None:
            raise UsageError(f"run={run}: nothing was evaluated yet, so no checkpoint is the best; which=latest")
        found = folder / "checkpoints" / str(best["checkpoint"])
        if not found.is_dir():
            raise UsageError(f"run={run}: its best checkpoint is no longer there: {found}; which=latest")
        return found
    steps = sorted((folder / "checkpoints").glob("step-*"), key=lambda path: (len(path.name), path.name))
    if not steps:
        raise UsageError(f"run={run}: it has no checkpoint (yet)")
    return steps[-1]


def _one_of(known: Sequence[str], key: str, given: str) -> str:
    if given not in known:
        raise UsageError(f"{key}={given}: must be one of {', '.join(known)}")
    return given


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
