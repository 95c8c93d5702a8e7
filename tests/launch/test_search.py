"""`launch/search.py`: JSON on standard output in the form of the released tool, or one sentence and status 2."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from envs.tools.local_index import Article, build_local_index
from launch.search import main

ROOT = Path(__file__).parents[2]


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main(list(arguments)) == 0
    report: dict[str, object] = json.loads(capsys.readouterr().out)
    return report


def test_the_command_prints_what_the_released_tool_returned(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = shared / "data" / "search_cache_sample"
    for case in json.loads((shared / "golden" / "search_cache_cases.json").read_text()):
        common = ("provider=offline", f"cache={sample}", "matching=release", f"img_id={case['img_id']}")
        queries = f"queries={json.dumps(case['queries'])}"
        text = ask(capsys, *common, "kind=text", queries)
        image = ask(capsys, *common, "kind=image", queries)
        assert {**text, **image} == case


def test_the_local_encyclopaedia_can_be_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = io.BytesIO()
    Image.new("RGB", (64, 64)).save(data, "PNG")
    build_local_index(tmp_path, [Article("Ada", "a mathematician", (data.getvalue(),))])
    common = ("provider=local", f"root={tmp_path}", 'queries=["ada"]')
    text = ask(capsys, *common, "kind=text")
    assert text["text"] == [{"query": "ada", "status": "success", "result": {"summary": "a mathematician"}}]
    assert ask(capsys, *common, "kind=image")["image_sizes"] == [[512, 512]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["queries=[]"], "kind=… is missing"),
        (["kind=sound", "queries=[]"], "kind=sound"),
        (["knd=text"], "did you mean 'kind'"),
        (["text"], "key=value"),
        (["kind=text", "queries=[", "root=x"], "queries: cannot be read as JSON"),
        (["kind=text", "queries=[3]", "root=x"], r"queries[0]"),
        (["kind=text", "queries=[]"], "search.root"),
        (["kind=text", 'queries=["a"]', "root=/nowhere"], "no such index"),
        (["kind=text", "queries=[]", "images_per_query=-1"], "at least 0"),
        (["kind=text", "queries=[]", "max_pixels=0"], "too small"),
        (["kind=text", "queries=[]", "threshold=high"], "must be a number"),
    ],
)
def test_a_wrong_command_line_is_a_sentence_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_it_runs_as_a_file_and_lists_its_keys() -> None:
    done = subprocess.run(
        [sys.executable, "launch/search.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "queries" in done.stdout and "images_per_query" in done.stdout
