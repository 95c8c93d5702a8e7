"""Set-up: which pins fit the machine, and when an environment is out of date."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType

import pytest

REQUIREMENTS = Path(__file__).parents[2] / "requirements"


@pytest.fixture
def setup_env(tmp_path: Path) -> ModuleType:
    """`setup_env.py` over a copy of its files, so that a test may change them."""
    project = tmp_path / "project"
    shutil.copytree(REQUIREMENTS, project / "requirements", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REQUIREMENTS.parent / "setup.cfg", project)
    spec = importlib.util.spec_from_file_location("setup_env_copy", project / "requirements" / "setup_env.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("script", "has_gpu"),
    [
        ('echo "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)"', True),
        ("echo No devices were found", False),
        ('echo "GPU access blocked by the operating system"; exit 9', False),
        (None, False),
    ],
)
def test_a_gpu_is_one_that_nvidia_smi_lists(
    setup_env: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, has_gpu: bool
) -> None:
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f'#!/bin/sh\n[ "$1" = -L ] || exit 3\n{script}\n')
        (tmp_path / "nvidia-smi").chmod(0o755)
    shell = os.path.dirname(shutil.which("sh") or "")
    monkeypatch.setenv("PATH", str(tmp_path) if script is None else f"{tmp_path}:{shell}")
    assert setup_env.has_nvidia_gpu() is has_gpu


def _touched(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "old", "new", "flavours"),
    [
        ("cpu.txt", "numpy==", "numpy==9.", {"cpu"}),
        ("gpu.txt", "numpy==", "numpy==9.", {"gpu"}),
        ("gpu.txt", "nvidia-cublas==", "nvidia-cublas==9.", {"cpu", "gpu"}),  # cpu: for a CUDA build of torch
        ("dev.txt", "pytest==", "pytest==9.", {"cpu", "gpu"}),
        ("cpu_torchvision.py", "import", "import ", {"cpu", "gpu"}),
        ("../setup.cfg", "zip_safe", "zip_safe ", {"cpu", "gpu"}),
    ],
)
def test_an_environment_is_out_of_date_when_what_it_is_made_from_changes(
    setup_env: ModuleType, name: str, old: str, new: str, flavours: set[str]
) -> None:
    before = {flavour: setup_env.fingerprint(flavour) for flavour in ("cpu", "gpu")}
    _touched(setup_env.HERE / name, old, new)
    assert {flavour for flavour, mark in before.items() if setup_env.fingerprint(flavour) != mark} == flavours


def test_a_stamp_of_the_same_files_makes_set_up_end_at_once(setup_env: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    folder.mkdir()
    (folder / setup_env.STAMP).write_text(f'{{"flavour": "cpu", "fingerprint": "{setup_env.fingerprint("cpu")}"}}')
    assert setup_env.main(["--venv", str(folder), "--flavour", "cpu"]) == 0
    assert [path.name for path in folder.iterdir()] == [setup_env.STAMP]


def test_the_cuda_libraries_of_a_cpu_machine_are_torchs_own_and_nothing_else(setup_env: ModuleType) -> None:
    names = {pin.partition("==")[0] for pin in setup_env.cuda_library_pins()}
    assert {"nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nccl-cu13", "triton"} <= names
    assert not names & {"nvidia-ml-py", "nvidia-cutlass-dsl", "torch", "vllm"}
