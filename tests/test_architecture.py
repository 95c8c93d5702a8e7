"""The shape of the project: launch → actors → envs, rewards → sake_ray, and which library may be imported where."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]

# A folder may import itself and these.
MAY_IMPORT = {
    "sake_ray": set(),
    "envs": {"sake_ray"},
    "rewards": {"sake_ray"},
    "actors": {"sake_ray", "envs", "rewards"},
    "launch": {"sake_ray", "envs", "rewards", "actors"},
}
LIGHT = ("sake_ray", "envs", "rewards")
# The engine, how it is set up, and the extension that vLLM loads into its own worker process.
MAY_IMPORT_VLLM = {"actors/vllm_engine.py", "actors/vllm_build.py", "actors/vllm_weights.py"}
# sake_ray modules that are about tensors and may import torch at their top; everything else imports it where it acts.
HEAVY: set[str] = set()

SOURCES = [path for folder in MAY_IMPORT for path in sorted((PROJECT / folder).rglob("*.py"))]


def name_of(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def imports_of(tree: ast.Module) -> Iterator[str]:
    """Every imported module's top-level name, wherever in the file the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the folder's name"
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_follow_the_arrows(path: Path) -> None:
    folder = path.relative_to(PROJECT).parts[0]
    imported = set(imports_of(ast.parse(path.read_text(encoding="utf-8"))))
    assert not (imported & set(MAY_IMPORT)) - MAY_IMPORT[folder] - {folder}
    assert not imported & {"tests", "benchmarks"}
    if folder not in ("actors", "launch"):
        assert "ray" not in imported, "import ray belongs in actors/ and launch/"
    if folder in ("envs", "rewards"):
        assert "torch" not in imported
    if name_of(path) not in MAY_IMPORT_VLLM:
        assert "vllm" not in imported, "import vllm belongs in actors/vllm_*.py"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_module_says_what_it_is_for_and_prints_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the first lines of a file are a docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"line {node.lineno}: print; use logging, or sys.stdout.write for a result"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_data_is_never_pickled(path: Path) -> None:
    assert not set(imports_of(ast.parse(path.read_text(encoding="utf-8")))) & {
        "pickle",
        "cloudpickle",
        "dill",
        "shelve",
    }


@pytest.mark.parametrize("folder", LIGHT)
def test_light_folders_import_without_ray_vllm_or_torch(folder: str) -> None:
    modules = [
        name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in sorted((PROJECT / folder).rglob("*.py"))
        if name_of(path) not in HEAVY
    ]
    program = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
    heavy = {{"ray", "vllm", "torch", "verl", "transformers"}} & set(sys.modules)
    assert not heavy, f"importing {{name}} brings {{sorted(heavy)}}"
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_rewards_import_in_well_under_a_second() -> None:
    modules = ", ".join(name_of(path)[:-3].replace("/", ".") for path in sorted((PROJECT / "rewards").glob("*.py")))
    # CPU time, not wall time: the machine may be busy with something else.
    program = f"import sys, time, {modules}; sys.exit(int(time.process_time() > 0.8))"
    assert subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=False).returncode == 0


def test_every_folder_with_modules_is_a_package() -> None:
    for path in SOURCES:
        assert (path.parent / "__init__.py").is_file(), f"{name_of(path.parent)} has modules but no __init__.py"


@pytest.mark.parametrize("path", sorted((PROJECT / "launch").glob("*.py")), ids=name_of)
def test_no_script_hides_a_library(path: Path) -> None:
    """The folder of the script that is run comes first on the import path: `launch/datasets.py` hid the library."""
    if path.stem != "__init__":
        assert importlib.util.find_spec(path.stem) is None
