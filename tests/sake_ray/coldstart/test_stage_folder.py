"""A stage's folder is one job's at a time, of one set of settings, and its lines are whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sake_ray.coldstart.stage_folder import GrowingFile, claim, held
from sake_ray.data.problems import DataError

PROJECT = Path(__file__).parents[3]
HOLDER = """
import subprocess, sys
from pathlib import Path
from sake_ray.coldstart.stage_folder import held
with held(Path(sys.argv[1])):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    sys.stdout.write(f"{child.pid}\\n")
    sys.stdout.flush()
    child.wait()
"""


def test_a_second_job_is_kept_out_until_the_first_is_done_or_dead(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with held(folder), pytest.raises(DataError, match=r"output=.*/a/b: another job is working there"):
        held(folder, "output").__enter__()
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(DataError, match=r"run\.dir=.*another job"):
                held(folder).__enter__()
            holder.kill()
            holder.wait()
            with held(folder):  # though a child of the dead job lives on
                pass
        finally:
            subprocess.run(["kill", "-9", str(child)], check=False)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"output=.*/file/out: cannot be written: Not a directory"):
        held(tmp_path / "file" / "out", "output").__enter__()


def test_a_folder_of_other_settings_is_refused_by_their_names(tmp_path: Path) -> None:
    claim(tmp_path, {"seed": 1, "sizes": (1, 2)})
    claim(tmp_path, {"sizes": [1, 2], "seed": 1})
    with pytest.raises(DataError, match=r"other settings \(more, seed differ\); choose another output"):
        claim(tmp_path, {"seed": 2, "sizes": [1, 2], "more": 1}, "output")
    (tmp_path / "settings.json").write_text("[]")
    with pytest.raises(DataError, match="holds no settings"):
        claim(tmp_path, {"seed": 1})


def test_half_a_line_is_dropped_and_what_is_added_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "in" / "rows.jsonl"
    first = GrowingFile(path)
    assert first.empty
    first.add({"a": 1})
    with path.open("a") as file:
        file.write('{"a": 2')  # killed while it wrote
    second = GrowingFile(path)
    assert not second.empty
    second.add({"a": "\ud83d"})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": 1}, {"a": "\ud83d"}]
