"""The report: its parts add up, its rates are method's, and what was written reads back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given

from rewards.evaluation.compare import compare_records
from rewards.evaluation.inputs import TrainIndex
from rewards.evaluation.records import PostRecord
from rewards.evaluation.report import Provenance, build_report, quick_scores, read_records, write_report
from rewards.protocols import score_strict
from sake_ray.data.problems import DataError
from tests.rewards.evaluation.made_records import FAR, RECORDS, A, claim, gold, post

ORIGIN = Provenance(run="runs/x", checkpoint="step 3", config_hash="abc")
TRAIN = TrainIndex.of([("ADA", "PER"), ("Bo", "ORG")], "train.jsonl")


def episodes() -> list[PostRecord]:
    return [
        post("known", [gold("Ada", "PER", A, difficulty="known", hits=4)], [claim("Ada", "PER", A)]),
        post("needless", [gold("Bo", "PER", difficulty="known", hits=4)], [claim("Bo", "PER")], "text"),
        post("asked", [gold("Cy", "ORG", A, difficulty="unknown", hits=0)], [claim("Cy", "ORG", A)], "image", "text"),
        post("missed", [gold("Di", "ORG", difficulty="unknown", hits=0)], [claim("Di", "PER")]),
        post("open", [gold("Ed", "LOC", difficulty="ambiguous", hits=2)], [], "text"),
    ]


def test_search_rates_and_calibration_are_those_of_the_method() -> None:
    report = build_report(episodes(), task="gmner", protocol="strict", provenance=ORIGIN, resamples=0)
    search = report["search"]
    assert (search["per_episode"], search["share_with_any"], search["queries"]) == (0.8, 0.6, 4)
    assert {kind: part["searches"] for kind, part in search["by_kind"].items()} == {"text": 3, "image": 1}
    assert (search["unnecessary"]["posts"], search["unnecessary"]["searches"]) == (2, 1)
    assert search["unnecessary"]["share_of_searches"] == 0.25
    assert search["missed"] == {"posts": 2, "without_search": 1, "missed": 1, "share_of_posts": 0.5}
    found = report["calibration"]
    assert (found["posts"], found["precision"], found["recall"], found["f1"]) == (4, 0.5, 0.5, 0.5)
    assert [(point["hit_rate"], point["posts"], point["share_searched"]) for point in found["curve"]] == [
        (0.0, 2, 0.5),
        (0.5, 1, 1.0),
        (1.0, 2, 0.5),
    ]
    assert report["cost"]["searches"] == {"mean": 0.8, "p50": 1, "p95": pytest.approx(1.8), "sum": 4}
    assert report["cost"]["seconds"]["mean"] == pytest.approx(1.0 + 1.5 * 0.8)


def test_seen_and_unseen_by_form_by_type_and_by_both() -> None:
    records = [post("1", [gold("ada", "PER"), gold("Bo", "PER"), gold("Cy", "LOC")], [claim("Bo", "PER")])]
    seen = build_report(records, task="gmner", protocol="strict", provenance=ORIGIN, train=TRAIN)["seen"]
    golds = {name: {label: cell["gold"] for label, cell in seen[name].items()} for name in ("form", "type", "both")}
    assert golds == {
        "form": {"seen": 2, "unseen": 1},
        "type": {"seen": 2, "unseen": 1},
        "both": {"seen": 1, "unseen": 2},
    }
    assert seen["both"]["unseen"]["gmner"] == {"precision": 100.0, "recall": 50.0, "f1": pytest.approx(200 / 3)}
    assert seen["form"]["unseen"]["gmner"]["precision"] is None  # nothing claimed there


def test_marks_of_gold_give_recall_where_no_training_split_is_at_hand() -> None:
    records = [post("1", [replace(gold("Ada"), seen=False), replace(gold("Bo"), seen=True)], [claim("Bo")])]
    seen = build_report(records, task="gmner", protocol="strict", provenance=ORIGIN)["seen"]
    assert seen["source"] == "records"
    assert seen["form"]["unseen"]["mner"] == {"precision": None, "recall": 0.0, "f1": None}
    assert quick_scores(records)["gmner_f1_unseen"] == pytest.approx(2 / 3)


@given(RECORDS)
def test_slices_of_a_partition_add_up_to_the_whole(records: list[PostRecord]) -> None:
    report = build_report(records, task="gmner", protocol="strict", provenance=ORIGIN, train=TRAIN, resamples=0)
    gold_total, claims_total = report["errors"]["gold"], report["errors"]["claims"]
    partitions = [report["types"], report["coarse_types"], *(report["seen"][name] for name in ("form", "type", "both"))]
    partitions += [report["slices"][name]["cells"] for name in ("entities", "groundable", "searched")]
    for cells in partitions:
        assert sum(cell["gold"] for cell in cells.values()) == gold_total
        assert sum(cell["claims"] for cell in cells.values()) == claims_total
    whole = score_strict([(record.claims, [entity.gold for entity in record.gold]) for record in records])
    assert {task: report[task] for task in whole} == whole == report["protocols"]["strict"]
    quick = quick_scores(records)
    assert all(quick[f"{task}_f1"] == pytest.approx(scores["micro_f1"] / 100) for task, scores in whole.items())
    json.dumps(report, allow_nan=False)


def test_what_was_written_reads_back_and_gives_the_same_report(tmp_path: Path) -> None:
    records = episodes()
    report = build_report(records, task="gmner", protocol="release", provenance=ORIGIN, resamples=50)
    write_report(tmp_path / "out", records, report)
    write_report(tmp_path / "out", records, report)  # over an earlier one
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out", "posts.jsonl", "report.json", "report.md"]
    again = read_records(tmp_path / "out")
    assert again == records
    stored = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert build_report(again, task="gmner", protocol="release", provenance=ORIGIN, resamples=50) == stored
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    sections = text.count("\n## ")
    assert text.count("run `runs/x` · checkpoint `step 3` · protocol `release` · config hash `abc`") == sections > 8
    lines = (tmp_path / "out" / "posts.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["verdicts"][0]["kind"] for line in lines] == ["right", "right", "right", "type", "missed"]


def test_samples_are_scored_one_by_one_and_must_be_of_the_same_posts() -> None:
    good = [post("1", [gold("Ada")], [claim("Ada")]), post("1", [gold("Ada")], [claim("Bo")] * 9, sample=1)]
    report = build_report(good, task="gmner", protocol="strict", provenance=ORIGIN, resamples=20)
    assert (report["posts"], report["samples"], report["gmner"]["micro_f1"]) == (1, 2, 50.0)
    assert report["confidence"]["gmner"]["micro_f1"]["value"] == 50.0
    with pytest.raises(ValueError, match="sample 1 is not of the posts"):
        build_report([*good, post("2", [], [])], task="gmner", protocol="strict", provenance=ORIGIN)


def test_evaluations_of_other_posts_or_gold_are_not_compared() -> None:
    a = episodes()
    with pytest.raises(DataError, match="only A has known"):
        compare_records(a, a[1:], task="gmner", resamples=10)
    dropped = compare_records(a, a[1:], task="gmner", unpaired="drop", resamples=10)
    assert (dropped["posts"], dropped["only_a"], dropped["only_b"]) == (4, 1, 0)
    with pytest.raises(DataError, match="post known has another gold"):
        compare_records(a, [replace(a[0], gold=(gold("Eve"),)), *a[1:]], task="gmner", resamples=10)


def test_a_refusal_is_a_tie_in_the_release_and_a_loss_in_strict() -> None:
    a = [post("1", [gold("Ada", "PER", A)], [claim("Ada", "PER", FAR)])]
    b = [replace(a[0], claims=())]
    right = [replace(a[0], claims=(claim("Ada", "PER", A),))]
    assert (
        compare_records(right, b, task="gmner", resamples=10)["protocols"]["strict"]["gmner"]["sign"]["a_better"] == 1
    )
    released = compare_records(a, b, task="gmner", resamples=10)["protocols"]["release"]
    assert (released["gmner"]["sign"]["ties"], released["mner"]["sign"]["a_better"]) == (1, 1)
