"""`launch/score.py`: one line of scores a case, in order, or one sentence with file, line and field and status 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch.score import main
from rewards.composite import Scorer
from sake_ray.config import load_config
from sake_ray.data.images import processed_size, to_processed
from sake_ray.metrics import JsonlLog, trajectory_rows
from sake_ray.trajectory import TrajectoryGroup
from sake_ray.types import Box, Entity
from tests.rewards.episodes import played

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


def a_run(folder: Path, *arguments: str) -> Path:
    """What a run with these settings leaves: config.json, and trajectories.jsonl with the rewards of its own scorer."""
    config = load_config(arguments, job="rl_twitter17")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    pixels = {"min_pixels": config.data.min_pixels, "max_pixels": config.data.max_pixels}
    scorer = Scorer.from_config(config.reward, **pixels)
    gold = (Entity("Ada", "PER", (Box(0, 0, 40, 60),)), Entity("Ada", "PER"))
    box = list(to_processed(gold[0].boxes[0], (200, 200), processed_size(200, 200, **pixels)))
    both = [{"entity": "Ada", "type": "PER", "box2d": shown} for shown in (box, [])]
    turns = [[f"<reason>r</reason><answer>{json.dumps(said)}</answer>"] for said in (both, both[:1], [])]
    episodes = [played(texts, gold) for texts in (*turns, [SEARCH, *turns[0]], [SEARCH, SEARCH], ["nothing"])]
    for episode in episodes:
        episode.reward = scorer.score(episode)
    groups = [TrajectoryGroup(episodes[0].example, episodes)]
    JsonlLog(folder / "trajectories.jsonl", resume_after=None).append(trajectory_rows(groups, 1, "train"))
    return folder / "trajectories.jsonl"


@pytest.mark.parametrize("preset", ["paper", "release"])
@pytest.mark.parametrize("mode", ["EM", "MultiEM"])
def test_a_runs_trajectories_score_as_they_did_in_training(tmp_path: Path, preset: str, mode: str) -> None:
    special = "use_search_count_penalty=true" if preset == "release" else "search_weight=0.3"
    path = a_run(tmp_path, f"reward.preset={preset}", f"reward.mode={mode}", f"reward.{special}", "reward.eeg_weight=0")
    out = tmp_path / "out.jsonl"
    assert main([f"preset={preset}", f"input={path}", f"output={out}"]) == 0
    rewards = [json.loads(line)["reward"] for line in path.read_text().splitlines()]
    scores = [json.loads(line) for line in out.read_text().splitlines()]
    names = dict(zip(FIELDS, ["total", "format", "searches", "mner_f1", "eeg_f1", "gmner_f1"], strict=True))
    assert scores == [{field: reward[name] for field, name in names.items()} for reward in rewards]
    assert len({score["score"] for score in scores}) >= 4, "the case tells nothing apart"


def test_a_run_is_scored_again_under_another_reward(tmp_path: Path) -> None:
    path, out = a_run(tmp_path, "reward.search_weight=0.05"), tmp_path / "out.jsonl"
    scores = []
    for given in ("reward.search_weight=0.05", "reward.search_weight=0.25"):
        assert main([f"input={path}", f"output={out}", given]) == 0
        scores.append([json.loads(line)["score"] for line in out.read_text().splitlines()])
    differences = [round(before - after, 9) for before, after in zip(*scores, strict=True)]
    assert differences == [0, 0, 0, 0.2, 0, 0]  # the one episode that searched and was right


def test_without_the_runs_config_the_pixel_limits_must_be_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = a_run(tmp_path), tmp_path / "out.jsonl"
    assert main([f"input={path}", f"output={out}"]) == 0
    expected = out.read_text()
    limits = json.loads((tmp_path / "config.json").read_text())["data"]
    (tmp_path / "config.json").unlink()
    assert main([f"input={path}", f"output={out}"]) == 2
    assert "give data.min_pixels=… and data.max_pixels=…" in capsys.readouterr().err
    given = [f"data.{name}={limits[name]}" for name in ("min_pixels", "max_pixels")]
    assert main([f"input={path}", f"output={out}", *given]) == 0
    assert out.read_text() == expected


@pytest.mark.parametrize(
    ("content", "argument", "message"),
    [
        ("{", "preset=paper", "config.json: broken JSON"),
        ("[]", "preset=paper", "config.json: must hold a JSON object"),
        ('{"reward": {"gamma_2": 1}, "data": {}}', "preset=paper", "reward.gamma_2: this version has no such setting"),
        (
            '{"reward": {"gamma": "x"}, "data": {"min_pixels": 7056, "max_pixels": 7056}}',
            "preset=paper",
            "reward.gamma=",
        ),
        (None, "reward.gamma=2", "reward.gamma=2.0: must be at most 1"),
        (None, "reward.gama=2", "did you mean 'reward.gamma'"),
        (None, "reward.use_search_count_penalty=true", "reward.search_weight instead"),
        (None, "data.min_pixels=9000000", "exceeds data.max_pixels"),
    ],
)
def test_settings_of_a_run_that_cannot_be_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, argument: str, message: str
) -> None:
    path = a_run(tmp_path)
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert main([f"input={path}", f"output={tmp_path / 'out.jsonl'}", argument]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_runs_settings_are_not_for_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cases.json").write_text(json.dumps(CASES))
    assert main([f"input={tmp_path / 'cases.json'}", f"output={tmp_path / 'out'}", "reward.gamma=0.5"]) == 2
    assert "carries its own config" in capsys.readouterr().err


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
    for word in ("reward.mner_weight", "reward.gamma", "data.min_pixels"):
        assert word in shown
