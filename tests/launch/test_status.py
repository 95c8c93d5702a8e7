"""The status command as people run it, from another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADDRESS_OF_NOTHING = "127.0.0.1:1"


def status(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command as from a fresh shell."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, str(ROOT / "launch" / "status.py"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.integration
def test_where_no_cluster_or_no_job_is_it_says_so_in_one_line(tmp_path: Path) -> None:
    for words, says in (
        ((f"run={tmp_path}",), "no job runs in this folder"),
        ((f"address={ADDRESS_OF_NOTHING}",), f"no Ray cluster at {ADDRESS_OF_NOTHING}"),
    ):
        ended = status(*words, "--once")
        assert ended.returncode == 2 and says in ended.stderr and ended.stderr.count("\n") == 1, ended.stderr
