"""Runs and evaluations in folders, small or large, with texts that would be HTML if a page let them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image

from rewards.evaluation.report import Provenance, build_report, records_of_rows, write_report
from sake_ray.data.json_files import write_json, write_lines

HOSTILE = "<img src=x onerror=alert(1)> </script><script>alert(2)</script> <!-- & \" ' \u2028 ]]>"
TYPES = ("PER", "ORG", "LOC", "MISC")
PIXELS = {"min_pixels": 7_056, "max_pixels": 903_168}


def make_row(
    number: int, step: int = 1, member: int = 0, *, kind: str = "eval", image: str = "", **more: Any
) -> dict[str, Any]:
    """A row of a run's trajectories: posts with two entities; what is answered depends on number and member."""
    pick = random.Random(number * 31 + member)
    name, other = f"Alpha {number}", f"Beta {number}"
    first, second = TYPES[number % 4], TYPES[(number + 1) % 4]
    said = [{"entity": name, "type": first if pick.random() < 0.7 else second, "box2d": [10, 10, 60, 60]}]
    if pick.random() < 0.6:
        said.append({"entity": other, "type": second, "box2d": [] if pick.random() < 0.7 else [5, 5, 20, 20]})
    searched = pick.random() < 0.5
    turns: list[dict[str, Any]] = []
    if searched:
        found = f"{name} is of type {first}. {HOSTILE}"
        result: dict[str, Any] = {"query": name, "status": "success", "reason": None, "text": found,
                  "images": 0, "pictures": [], "cached": False}  # fmt: skip
        asked = f'<reason>who is {name}?</reason><text_search>[{{"query": "{name}"}}]</text_search>'
        turns.append(
            {
                "text": asked,
                "action": "TextSearch",
                "reason": "",
                "generate_s": 0.4,
                "results": [result],
                "search_s": 0.2,
            }
        )
    answer = f"<reason>{HOSTILE}</reason><answer>{json.dumps(said)}</answer>"
    answer = f"<reason>I think so</reason><answer>{json.dumps(said)}</answer>" if kind == "plain" else answer
    turns.append(
        {"text": answer, "action": "Answer", "reason": "", "generate_s": 0.5, "results": None, "search_s": None}
    )
    total = round(pick.random(), 2)
    parts = ("f1", "mner_f1", "eeg_f1", "gmner_f1", "format", "searches", "retrieval_penalty")
    return {
        "step": step,
        "kind": kind,
        "id": f"post_{number}-abc.{member}",
        "example": f"post_{number}",
        "post": f"{name} meets {other} {HOSTILE}",
        "image": image,
        "image_size": [200, 100],
        "gold": [
            {"entity": name, "type": first, "boxes": [[10, 10, 60, 60]], "difficulty": "unknown"},
            {"entity": other, "type": second, "boxes": [], "difficulty": "known" if number % 2 else "unknown"},
        ],
        "turns": turns,
        "stop_reason": "answer",
        "reward": {"total": total, **dict.fromkeys(parts, 0.5)} if kind == "train" else None,
        "advantage": round(total - 0.5, 2) if kind == "train" else None,
        "tokens": 100 + number % 50,
        "sampled_tokens": 40,
        "version": step,
        **more,
    }  # fmt: skip


def make_pictures(folder: Path, count: int, *, seed: int = 0) -> list[str]:
    """Pictures of 200 × 100 that do not compress to nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    pick = random.Random(seed)
    paths = []
    for number in range(count):
        small = Image.frombytes("RGB", (50, 25), pick.randbytes(50 * 25 * 3))
        path = folder / f"post_{number}.jpg"
        small.resize((200, 100)).save(path, quality=80)
        paths.append(str(path))
    return paths


def make_evaluation(folder: Path, posts: int, images: list[str] | None = None) -> Path:
    """An evaluation's folder, as evaluations write it."""
    rows = [make_row(n, image=images[n % len(images)] if images else "") for n in range(posts)]
    records = records_of_rows(rows, **PIXELS)
    origin = Provenance(
        run="runs/<b>case</b>", checkpoint="step-1", config_hash="0123abcd", split="dev", made="2026-01-01"
    )
    report = build_report(records, task="gmner", protocol="strict", provenance=origin, resamples=50)
    write_report(folder, records, report)
    return folder


def make_run(folder: Path, steps: int, posts: int = 2, members: int = 4) -> Path:
    """A training run's folder."""
    folder.mkdir(parents=True)
    metrics: list[dict[str, Any]] = [
        {"step": 0, "eval/gmner_f1": 0.5, "eval/mner_f1": 0.6, "eval/eeg_f1": 0.6, "eval/posts": 3.0}
    ]
    rows = []
    for step in range(1, steps + 1):
        phases = {"time/rollout_s": 2.0, "time/update_s": 1.0, "time/publish_s": 0.5, "time/step_s": 3.5}
        metrics.append(
            {"step": step, "reward/total": step / steps, "search/on_unknown": 0.5, "train/entropy": 0.1, **phases}
        )
        rows += [make_row(n, step, m, kind="train") for n in range(posts) for m in range(members)]
    metrics[-1] |= {"eval/gmner_f1": 0.75, "eval/mner_f1": 0.8, "eval/eeg_f1": 0.7, "eval/posts": 3.0}
    write_lines(folder / "metrics.jsonl", metrics)
    write_lines(folder / "trajectories.jsonl", rows)
    write_lines(folder / "eval_trajectories.jsonl", [make_row(n, s) for s in (0, steps) for n in range(3)])
    write_json(folder / "config.json", {"job": "case", "preset": "mini", "run": {"seed": 7}, "data": PIXELS})
    return folder
