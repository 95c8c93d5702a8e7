"""`.ci/run` sees to a browser where it may, never fails for want of one, and ends with what the tests say."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "run"
PASSED = "3 passed in 0.01s"
INSTALL = "install -qq --yes --no-install-recommends chromium"


def run_ci(folder: Path, *, user: int, there: tuple[str, ...], apt: str | None = None) -> tuple[list[str], str, str]:
    """What apt-get was asked for, stdout and stderr, on a machine with these programs."""
    programs, asked = folder / "bin", folder / "asked"
    programs.mkdir()
    for name in ("bash", "dirname", "timeout"):
        (programs / name).symlink_to(shutil.which(name) or name)
    texts = {"id": f"echo {user}", "make": f"echo {PASSED}", **dict.fromkeys(there, "exit 1")}
    if apt is not None:
        texts["apt-get"] = f'echo "$@" "$DEBIAN_FRONTEND" >> {asked}; echo noise; echo noise >&2; {apt}'
    for name, text in texts.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / name).chmod(0o755)
    environment = {"PATH": str(programs), "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return asked.read_text().splitlines() if asked.exists() else [], done.stdout, done.stderr


def test_root_without_a_browser_gets_debians(tmp_path: Path) -> None:
    asked, out, err = run_ci(tmp_path, user=0, there=(), apt="exit 0")
    assert asked == ["update -qq noninteractive", f"{INSTALL} noninteractive"]
    assert (out, err) == (f"{PASSED}\n", "")


def test_an_install_that_fails_is_one_line_and_the_tests_run(tmp_path: Path) -> None:
    asked, out, err = run_ci(tmp_path, user=0, there=(), apt="exit 100")
    assert len(asked) == 2
    assert out == f"{PASSED}\n"
    assert err == "ci: apt-get did not install chromium; tests of pages are skipped\n"


@pytest.mark.parametrize(
    ("user", "there", "apt"),
    [(0, ("chromium",), "exit 0"), (0, ("google-chrome-stable",), "exit 0"), (1000, (), "exit 0"), (0, (), None)],
)
def test_otherwise_nothing_is_installed(tmp_path: Path, user: int, there: tuple[str, ...], apt: str | None) -> None:
    assert run_ci(tmp_path, user=user, there=there, apt=apt) == ([], f"{PASSED}\n", "")
