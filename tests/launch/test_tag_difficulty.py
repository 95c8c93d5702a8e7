"""Tags of saved samples from the shell: equal to the released tags, whole or not at all, errors as one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.tag_difficulty import main

GOLD = [{"phrase": "Ada", "entity_type": "PER", "region_box": [0, 0, 10, 10]}]


def test_equal_to_the_released_tags_in_every_entity(shared: Path, tmp_path: Path) -> None:
    cases = shared / "golden" / "search_tag_cases.json"
    assert main([f"samples={cases}", f"output={tmp_path / 'out.jsonl'}"]) == 0
    expected = [post["expected"] for case in json.loads(cases.read_text()) for post in case["posts"]]
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert found == expected
    assert sum(map(len, found)) == 188


def test_malformed_samples_are_counted_and_hit_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [{"entity": "Ada", "type": "PER", "box2d": [0, 0, 10, 11]}]
    broken = [None, "text", [{"entity": "Ada"}], [{"entity": "Ada", "type": "PER", "box2d": [1, 2]}]]
    case = {"task": "gmner", "n": 5, "posts": [{"gold": GOLD, "samples": [good, *broken]}]}
    (tmp_path / "cases.jsonl").write_text(json.dumps(case) + "\n")
    assert main([f"samples={tmp_path / 'cases.jsonl'}", f"output={tmp_path / 'out.jsonl'}"]) == 0
    assert json.loads((tmp_path / "out.jsonl").read_text()) == [{"is_search": "None", "hit_text": 1, "hit_image": 1}]
    assert "4 of 5 samples did not parse" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"task": "gmner", "n": 4, "posts": [{"gold": [{"phrase": 3}], "samples": []}]}', "posts[0].gold[0].phrase"),
        ('{"task": "gmner", "n": 0, "posts": []}', "n: 0 is not a number of samples"),
        ('[{"task": "gmner", "n": 4, "posts": [}]', "element 1"),
        ("", "no such file"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_no_output_appears(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    if content:
        (tmp_path / "cases.json").write_text(content)
    assert main([f"samples={tmp_path / 'cases.json'}", f"output={tmp_path / 'out.jsonl'}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


def test_both_words_are_needed_and_a_slip_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["samples=x.json"]) == 2
    assert "output=… is missing" in capsys.readouterr().err
    assert main(["samples=x.json", "ouput=y"]) == 2
    assert "did you mean 'output'" in capsys.readouterr().err
