"""`launch/search_cache.py`: JSON on standard output, or one sentence and status 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from envs.tools.search_cache import SearchCache
from launch.search_cache import main
from sake_ray.types import SearchKind

ROOT = Path(__file__).parents[2]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(arguments) == 0, capsys.readouterr().err
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_a_released_cache_goes_in_and_comes_out(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, store = shared / "data" / "search_cache_sample", f"dir={tmp_path / 'store'}"
    taken = run(capsys, "import", store, f"from={sample}", "provider=serper", "search.images_per_query=2")
    info = run(capsys, "info", store)
    assert (taken["posts"], info["answers"]) == (6, taken["answers"])
    assert set(info["by_kind"]) == {"serper text", "serper image"}
    given = run(capsys, "export", store, f"to={tmp_path / 'out'}", "provider=serper")
    assert given["posts"] == 6
    for kind in SearchKind:
        for post in ("115220", "407410"):
            before, after = (SearchCache(root).entries(kind, post) for root in (sample, tmp_path / "out"))
            assert [(e.query, e.status, len(e.images[:2])) for e in before] == [
                (e.query, e.status, len(e.images)) for e in after
            ]
    pruned = run(capsys, "prune", store, "gib=0", "keep_s=0")
    assert (pruned["answers"], pruned["bytes"]) == (taken["answers"], 0)
    assert not [path for path in (tmp_path / "store" / "pictures").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inform"], "must be one of info, import, export, prune"),
        (["info"], "dir=… is missing"),
        (["info", "dir=nowhere"], "no store of answers there"),
        (["prune", "dir=nowhere", "gib=1"], "no store of answers there"),
        (["prune", "dir=nowhere", "gib=much"], "gib=much: must be a number"),
        (["prune", "dir=nowhere", "gib=-1"], "at least 0"),
        (["export", "dir=nowhere", "to=x", "provider=serper"], "no store of answers there"),
        (["export", "dir=nowhere", "to=x", "povider=serper"], "did you mean 'provider'"),
        (["import", "dir=new", "from=nowhere", "provider=serper"], "no folder text_search or image_search"),
        (["import", "dir=new", "from=nowhere", "provider=serper", "search.max_char=3"], "max_chars"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_status_2(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert not (tmp_path / "nowhere").exists()


def test_it_runs_as_a_file() -> None:
    done = subprocess.run(
        [sys.executable, "launch/search_cache.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "prune dir=DIR" in done.stdout
