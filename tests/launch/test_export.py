"""A run's checkpoint as a folder that others load: which one is taken, what is in it, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.learner import Learner, LearnerSettings, start_process_group
from launch.export import main
from sake_ray.config.load import resolve
from sake_ray.trainer.checkpoint import CheckpointStore
from tests.actors import learner_case as lc
from tests.tiny_model import make_tiny_model

ROOT = Path(__file__).parents[2]


def write_run(folder: Path, *steps: int, model: str = "mini") -> Path:
    """A run with checkpoints that no learner wrote."""
    config = resolve(["preset=mini", f"model.path={model}"], job="test", defaults={"run.dir": str(folder)})
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    for step in steps:
        CheckpointStore(folder / "checkpoints", 9).write(step, {}, {"learner": _nothing})
    return folder


def _nothing(folder: Path) -> None:
    (folder / "numbers").write_bytes(b"0")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("run=RUN", "output=… is missing"),
        ("output=OUT", "give either run=RUN or checkpoint=DIR"),
        ("run=RUN checkpoint=RUN output=OUT", "give either run=RUN or checkpoint=DIR"),
        ("run=RUN output=OUT dtype=int8", "dtype=int8: must be one of bfloat16, float32"),
        ("run=RUN output=OUT which=worst", "which=worst: must be one of latest, best"),
        ("run=RUN output=OUT which=best", "nothing was evaluated yet"),
        ("run=RUN/none output=OUT", "there is no such folder"),
        ("run=RUN/checkpoints output=OUT", "it has no checkpoint"),
        ("checkpoint=RUN output=OUT", "no checkpoint is there (manifest.json is missing)"),
        ("checkpoint=RUN/checkpoints/step-000002 which=best output=OUT", "which=… is for run=RUN"),
        ("run=RUN output=RUN", "is there already; give a new folder"),
        ("run=RUN output=RUN/checkpoints/step-000010/policy", "lies within the checkpoint"),
        ("run=RUN output=OUT", "is no learner's checkpoint"),
    ],
)
def test_wrong_input_is_one_sentence_and_writes_nothing(
    words: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", 2, 10)
    before = sorted(tmp_path.rglob("*"))
    given = words.replace("RUN/", f"{run}/").replace("=RUN", f"={run}").replace("OUT", str(tmp_path / "out"))
    assert main(given.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("export: ") and sentence in said and said.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_checkpoint_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", 2)
    (run / "checkpoints" / "step-000002" / "learner" / "numbers").write_bytes(b"1")
    assert main([f"run={run}", f"output={tmp_path / 'out'}"]) == 2
    assert "the content of learner/numbers is not what was written" in capsys.readouterr().err


def test_it_runs_as_a_file_of_an_uninstalled_checkout(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "launch" / "export.py"), "--help"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "which=latest|best" in ended.stdout


@pytest.fixture
def one_rank() -> Iterator[None]:
    start_process_group(0, 1, "127.0.0.1", lc.free_port())
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.integration
def test_the_folder_computes_what_the_learner_did_at_that_step(one_rank: None, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model")
    run = write_run(tmp_path / "run", model=str(model))
    learner = Learner(LearnerSettings(model, lc.LEARNER, lc.AlgorithmConfig(kl_coef=0)), load_image=lc.picture)
    samples = lc.make_samples(model, 4)
    store, expected, params = CheckpointStore(run / "checkpoints", 9), {}, {}
    for step in (1, 2):
        learner.update(samples)
        store.write(step, {}, {"learner": learner.save})
        expected[step], params[step] = learner.log_probs(samples), learner.full_params()
    (run / "checkpoints" / "best.json").write_text(json.dumps({"step": 1, "value": 0.5, "checkpoint": "step-000001"}))

    for words, step in (((f"run={run}",), 2), ((f"run={run}", "which=best"), 1)):
        out = tmp_path / f"exported-{step}"
        assert main([*words, f"output={out}", "dtype=float32"]) == 0
        hf, processor = lc.load_plain(out)
        with torch.no_grad():
            found = [lc.reference_log_probs(hf, sample, processor).numpy() for sample in samples]
        for one, other in zip(found, expected[step], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)

    assert main([f"checkpoint={run / 'checkpoints' / 'step-000002'}", f"output={tmp_path / 'half'}"]) == 0
    hf, _ = lc.load_plain(tmp_path / "half")
    rounded = {name: value.to(torch.bfloat16).float() for name, value in params[2].items()}
    assert all(parameter.equal(rounded[name]) for name, parameter in hf.named_parameters())
