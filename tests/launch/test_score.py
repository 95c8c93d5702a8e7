"""`launch/score.py`: one line of scores a case, in order, or one sentence with file, line and field and status 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch.score import main

ROOT = Path(__file__).parents[2]
FIELDS = ["score", "format", "search_count", "mner_f1", "eeg_f1", "gmner_f1"]
GOLD = [{"entity": "Ada", "type": "PER", "bbox": []}]
SEARCH = '<reason>r</reason><text_search>[{"query": "a"}]</text_search>'
RIGHT = '<reason>r</reason><answer>[{"entity": "Ada", "type": "PER", "box2d": []}]</answer>'
CASES = [
    {"responses": [SEARCH, RIGHT], "gold": GOLD, "config": {"use_search_count_penalty": True}},
    {"responses": ["nothing"], "gold": GOLD, "config": {}},
]


def run(tmp_path: Path, text: str, preset: str) -> list[dict[str, float]]:
    cases, out = tmp_path / "cases.json", tmp_path / "out.jsonl"
    cases.write_text(text, encoding="utf-8")
    assert main([f"preset={preset}", f"input={cases}", f"output={out}"]) == 0
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("preset", ["paper", "release"])
def test_a_list_and_json_lines_score_alike(tmp_path: Path, preset: str) -> None:
    scores = run(tmp_path, json.dumps(CASES), preset)
    assert scores == run(tmp_path, "\n".join(map(json.dumps, CASES)) + "\n", preset)
    assert [list(line) for line in scores] == [FIELDS, FIELDS]
    first = 0.9 * 0.99 + 0.1 if preset == "release" else 1.0 - 0.05
    assert [line["score"] for line in scores] == pytest.approx([first, 0.0])


def test_the_script_runs_from_a_checkout_and_equals_the_golden_vectors(tmp_path: Path, shared: Path) -> None:
    cases, out = shared / "golden" / "reward_cases.json", tmp_path / "out.jsonl"
    command = [sys.executable, "launch/score.py", "preset=release", f"input={cases}", f"output={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    expected = [case["expected"] for case in json.loads(cases.read_text(encoding="utf-8"))]
    scores = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [line["score"] for line in scores] == pytest.approx([e["score"] for e in expected], abs=1e-9)
    assert [(s["format"], s["search_count"]) for s in scores] == [(e["format"], e["search_count"]) for e in expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{]", "element 1"),
        (
            '{"responses": ["a"], "gold": []}\n{"responses": ["a"], "gold": [7]}',
            ":2: case 1: gold[0]: must be an object",
        ),
        (
            json.dumps([{"responses": [SEARCH] * 4, "gold": []}]),
            "case 0: 4 responses: the release preset scores 1 to 3",
        ),
        ("{", ":1: json: broken JSON"),
    ],
)
def test_broken_input_is_named_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    cases, out = tmp_path / "cases.json", tmp_path / "out.jsonl"
    cases.write_text(text, encoding="utf-8")
    assert main(["preset=release", f"input={cases}", f"output={out}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(cases) in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["input=x"], "output=… is missing"),
        (["inptu=x"], "did you mean 'input'"),
        (["input"], "not of the form key=value"),
        (["input=x", "output=y", "preset=strict"], "must be one of paper, release"),
        (["input=nowhere.json", "output=y"], "nowhere.json: no such file"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("preset", "input", "output", "format_penalty", "image_size_info", "search_weight", "gamma"):
        assert word in shown
