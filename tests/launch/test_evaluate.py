"""`launch/evaluate.py`: what it reads and refuses, and that its numbers are the released evaluator's."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.evaluate import main
from sake_ray.config.load import resolve

SCRIPT = Path(__file__).parents[2] / "launch" / "evaluate.py"

GOLD = [
    {
        "img_id": "1.jpg",
        "tokens": ["Ada", "met", "Bo"],
        "gt_entities": [
            {"start": 0, "end": 0, "phrase": "Ada", "entity_type": "PER", "region_box": [0, 0, 10, 10]},
            {"start": 2, "end": 2, "phrase": "Bo", "entity_type": "PER", "region_box": []},
        ],
    },
    {
        "img_id": "2.jpg",
        "tokens": ["ACME"],
        "gt_entities": [{"start": 0, "end": 0, "phrase": "ACME", "entity_type": "ORG", "region_box": []}],
    },
]
SAID = [
    {"img_id": "2.jpg", "pre_entities": [{"phrase": "ACME", "entity_type": "ORG", "region_box": []}]},
    {"img_id": "1.jpg", "pre_entities": [{"phrase": "Ada", "entity_type": "PER", "region_box": [0, 0, 10, 10]}]},
]


def put(path: Path, content: Any, *, lines: bool = False) -> Path:
    text = "".join(f"{json.dumps(row)}\n" for row in content) if lines else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def evaluate(folder: Path, predictions: Path, gold: Path | None, *words: str, task: str = "gmner") -> dict[str, Any]:
    given = [f"predictions={predictions}", f"task={task}", f"output={folder}", *words]
    assert main([*given, *([f"gold={gold}"] if gold else [])]) == 0
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 2
    said = capsys.readouterr().err
    assert said.startswith("evaluate: ") and said.count("\n") == 1
    return said


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("form", ["ours", "released, shuffled, JSON lines"])
def test_release_equals_the_golden_vectors(shared: Path, tmp_path: Path, number: int, form: str) -> None:
    case = json.loads((shared / "golden" / "evaluator_cases.json").read_text(encoding="utf-8"))[number]
    said, lines = case["predictions"], form != "ours"
    if lines:
        keys = {"phrase": "entity", "entity_type": "type", "region_box": "box2d"}
        said = [
            {"img_id": p["img_id"], "prediction": [{keys[k]: v for k, v in e.items()} for e in p["pre_entities"]]}
            for p in said
        ]
        random.Random(0).shuffle(said)
    predictions = put(tmp_path / "P.json", said, lines=lines)
    gold = put(tmp_path / "G.json", case["gold"], lines=lines)
    report = evaluate(tmp_path / "out", predictions, gold, "protocol=release", task=case["task"])
    for task, expected in case["expected"].items():
        assert report[task] == pytest.approx(expected, abs=1e-6), task
    assert report["protocols"]["release"]["gmner"] == report["gmner"]


def test_the_command_runs_as_a_file_of_an_uninstalled_checkout(tmp_path: Path) -> None:
    words = [f"predictions={put(tmp_path / 'P.json', SAID)}", f"gold={put(tmp_path / 'G.json', GOLD)}", "task=gmner"]
    command = [sys.executable, str(SCRIPT), *words, f"output={tmp_path / 'out'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, f"evaluate: 2 posts → {tmp_path / 'out'}\n")
    assert "| **strict** | GMNER | 100.00 | 66.67 | 80.00 |" in done.stdout


def test_posts_must_be_the_same_or_missing_ones_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold, few = put(tmp_path / "G.json", GOLD), put(tmp_path / "P.json", SAID[:1])
    words = [f"predictions={few}", f"gold={gold}", "task=gmner", f"output={tmp_path / 'out'}"]
    assert "1 of 2 gold posts have no prediction (1): answer them" in refused(capsys, *words)
    assert not (tmp_path / "out").exists()
    report = evaluate(tmp_path / "out", few, gold, "missing=empty")
    assert report["notes"] == ["1 posts have no prediction and count as empty answers (missing=empty)."]
    assert report["gmner"]["micro_recall"] == pytest.approx(100 / 3)
    assert "1 posts have no prediction" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    more = put(tmp_path / "M.json", [*SAID, {"img_id": "9.jpg", "pre_entities": []}])
    assert "1 of 3 predicted posts are not in gold (9)" in refused(
        capsys, f"predictions={more}", *words[1:], "missing=empty"
    )
    twice = put(tmp_path / "T.json", [*SAID, SAID[0]])
    assert "'2' occurs twice" in refused(capsys, f"predictions={twice}", *words[1:])


def test_what_is_wrong_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold = put(tmp_path / "G.json", GOLD)
    bad = [SAID[0], {"img_id": "1.jpg", "prediction": [{"entity": "Ada", "type": "PER", "box2d": [1, 2]}, {}]}]
    predictions = put(tmp_path / "P.jsonl", bad, lines=True)
    words = [f"predictions={predictions}", f"gold={gold}", f"output={tmp_path / 'out'}", "task=gmner"]
    said = refused(capsys, *words)
    assert f"{predictions}:2: prediction[0]" in said and "malformed=drop" in said
    report = evaluate(tmp_path / "out", predictions, gold, "malformed=drop")
    assert report["notes"] == ["2 malformed entities were left out (malformed=drop)."]
    assert "must be one of gmner, fmnerg" in refused(capsys, *words[:3], "task=ner")
    assert "unknown key 'golds'" in refused(capsys, *words, "golds=x")
    assert "predictions=…, compare=…" in refused(capsys, "task=gmner")
    assert "gold=… is missing" in refused(capsys, words[0], *words[2:])


def test_boxes_of_the_sized_picture_are_scaled_where_the_sizes_are_given(tmp_path: Path) -> None:
    sizes = [{"original_size": [100, 100], "processed_size": [200, 200]}]
    large = {"phrase": "Ada", "entity_type": "PER", "region_box": [0, 0, 20, 20]}
    said = [{"img_id": "1", "image_size_info": sizes, "pre_entities": [large]}, SAID[0]]
    report = evaluate(tmp_path / "out", put(tmp_path / "P.json", said), put(tmp_path / "G.json", GOLD))
    assert report["gmner"]["micro_precision"] == 100.0


def test_training_split_tags_and_samples(tmp_path: Path) -> None:
    gold = put(tmp_path / "G.json", GOLD)
    train = put(tmp_path / "train.jsonl", [{**GOLD[1], "img_id": "7.jpg"}], lines=True)
    entity = {"entity": "ACME", "type": "ORG", "hit_text": 0, "hit_image": 0, "hits": 0}
    tag = {
        "img_id": "2",
        "n": 4,
        "malformed": 0,
        "entities": [{**entity, "is_search": "both", "difficulty": "unknown"}],
    }
    tags = put(tmp_path / "tags.jsonl", [tag], lines=True)
    two = [{**post, "sample": sample} for post in SAID for sample in (0, 1)]
    report = evaluate(tmp_path / "out", put(tmp_path / "P.json", two), gold, f"train={train}", f"tags={tags}", "seed=3")
    assert (report["posts"], report["samples"]) == (2, 2)
    assert report["seen"]["form"]["seen"]["gold"] == 2  # in both samples
    assert report["slices"]["difficulty"]["cells"]["unknown"]["gmner"]["recall"] == 100.0
    assert report["confidence"]["seed"] == report["provenance"]["seed"] == 3


def test_gold_of_a_data_folder_is_read_by_its_split(tmp_path: Path) -> None:
    put(tmp_path / "test.jsonl", GOLD, lines=True)
    report = evaluate(tmp_path / "out", put(tmp_path / "P.json", SAID), tmp_path, "split=test")
    assert (report["posts"], report["provenance"]["split"]) == (2, f"{tmp_path}, test")


def test_a_runs_own_episodes_bring_gold_and_provenance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = '<reason>r</reason><answer>[{"entity": "Ada", "type": "PER", "box2d": [0, 0, 20, 20]}]</answer>'
    turn = {"text": answer, "action": "Answer", "reason": "", "generate_s": 1.0, "results": None, "search_s": None}
    row = {
        "step": 1,
        "kind": "eval",
        "id": "1-0.0",
        "example": "1",
        "post": "Ada",
        "image_size": [100, 100],
        "gold": [{"entity": "Ada", "type": "PER", "boxes": [[0, 0, 10, 10]], "difficulty": "known"}],
        "turns": [turn],
        "stop_reason": "answer",
        "reward": None,
        "advantage": None,
        "tokens": 9,
        "sampled_tokens": 5,
    }
    rows = [{**row, "step": 0, "stop_reason": "turn_limit"}, row]
    path = put(tmp_path / "eval_trajectories.jsonl", rows, lines=True)
    assert "config.json" in refused(capsys, f"predictions={path}", "task=gmner", f"output={tmp_path / 'out'}")
    config = resolve(["preset=mini", "data.min_pixels=40000", "data.max_pixels=50000"], job="rl_gmner")
    put(tmp_path / "config.json", config.to_dict())
    report = evaluate(tmp_path / "out", path, None)
    assert report["gmner"]["micro_f1"] == 100.0  # the box was in pixels of the picture enlarged to 200 x 200
    origin = report["provenance"]
    assert (origin["run"], origin["checkpoint"], origin["config_hash"]) == (str(tmp_path), "step 1", config.config_hash)
    assert report["cost"]["tokens"]["mean"] == 9
    assert evaluate(tmp_path / "first", path, None, "step=0")["gmner"]["micro_f1"] == 0.0
    assert "has no step 7" in refused(
        capsys, f"predictions={path}", "task=gmner", f"output={tmp_path / 'out'}", "step=7"
    )


def test_two_evaluations_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold = put(tmp_path / "G.json", GOLD)
    evaluate(tmp_path / "a", put(tmp_path / "A.json", SAID), gold)
    evaluate(tmp_path / "b", put(tmp_path / "B.json", [SAID[0], {"img_id": "1", "pre_entities": []}]), gold)
    capsys.readouterr()
    assert main([f"compare={tmp_path / 'a'},{tmp_path / 'b'}", f"output={tmp_path / 'c'}"]) == 0
    assert "| strict | GMNER | 80.00 | 50.00 | -30.00 |" in capsys.readouterr().out
    compared = json.loads((tmp_path / "c" / "compare.json").read_text(encoding="utf-8"))
    assert (compared["posts"], compared["resamples"]) == (2, 10_000)
    assert compared["protocols"]["strict"]["gmner"]["sign"]["a_better"] == 1
    assert (tmp_path / "c" / "compare.md").is_file()
    assert "holds no evaluation" in refused(capsys, f"compare={tmp_path / 'a'},{tmp_path}")
    assert "must be two folders" in refused(capsys, f"compare={tmp_path / 'a'}")
