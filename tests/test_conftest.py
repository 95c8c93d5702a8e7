"""A run of the tests that could not check parity with the released code says so, aloud, and only then."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("beside", [True, False])
def test_a_run_without_the_golden_vectors_says_that_parity_was_not_checked(tmp_path: Path, beside: bool) -> None:
    tests = tmp_path / "project" / "tests"
    tests.mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "conftest.py", tests)
    (tests / "test_parity.py").write_text("def test_one(shared): ...\ndef test_two(shared): ...\ndef test_x(): ...\n")
    if beside:
        (tmp_path / "shared").mkdir()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=tests.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    said = [line for line in done.stdout.splitlines() if "GOLDEN PARITY WAS NOT CHECKED: 2 tests" in line]
    assert len(said) == (0 if beside else 1)
