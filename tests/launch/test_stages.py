"""Stage 1 as people run it: the entry scripts on a small world, with the real engine and the real search pool.

What would go unseen otherwise: a tagging run that was killed and samples posts twice, or differently, when it goes on;
a data set that this project writes and `datasets` cannot read.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from sake_ray.coldstart.secot_files import read_demonstrations
from sake_ray.types import StopReason

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
POSTS = 160
WORLD = (f"world.train_posts={POSTS}", "world.dev_posts=4", "world.test_posts=4", "world.long_tail=60")


def command(script: str, *words: str) -> list[str]:
    return [sys.executable, str(ROOT / "launch" / f"{script}.py"), "preset=mini", *WORLD, *words]


def run(words: Sequence[str]) -> str:
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr + done.stdout


def lines(path: Path) -> list[str]:
    return sorted(path.read_text(encoding="utf-8").splitlines())


def kill_when(path: Path, count: int, words: Sequence[str]) -> None:
    """Run a job and kill it, and all that it started, as soon as a file has `count` lines."""
    job = psutil.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while not (path.exists() and path.read_bytes().count(b"\n") >= count):
            assert job.poll() is None, "the job ended before it could be killed"
            assert time.monotonic() < deadline, f"{path} did not get {count} lines in time"
            time.sleep(0.02)
    finally:
        family = [job, *job.children(recursive=True)]
        for process in family:
            if process.is_running():
                process.kill()
        psutil.wait_procs(family, timeout=20)


@pytest.fixture(scope="module")
def tags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tagging run that was killed after ten posts and started again."""
    folder = tmp_path_factory.mktemp("stages") / "tags"
    words = command("tag_difficulty", f"run.dir={folder}")
    kill_when(folder / "samples.jsonl", 10, words)
    sampled = len(lines(folder / "samples.jsonl"))
    assert 10 <= sampled < POSTS, "it was killed too late to show anything"
    assert "precision" in run(words)
    return folder


@pytest.mark.slow
def test_a_killed_tagging_run_ends_as_one_that_was_not(tags: Path) -> None:
    run(command("tag_difficulty", f"run.dir={tags.parent / 'undisturbed'}"))
    for name in ("samples.jsonl", "tags.jsonl"):
        assert lines(tags / name) == lines(tags.parent / "undisturbed" / name)
    rows = [json.loads(line) for line in lines(tags / "samples.jsonl")]
    assert len({row["posts"][0]["img_id"] for row in rows}) == len(rows) == POSTS
    report = json.loads((tags / "report.json").read_text())
    assert report["agreement"]["unknown"]["precision"] > 0.8
    assert (tags / "hits.png").stat().st_size > 1000


@pytest.mark.slow
def test_what_is_built_of_the_tags_is_replayable_and_of_use_elsewhere(tags: Path) -> None:
    folder = tags.parent / "secot"
    words = command("build_secot", f"tags.file={tags / 'tags.jsonl'}", f"run.dir={folder}")
    run(words)
    made = read_demonstrations(folder)
    assert {demonstration.searches for demonstration in made} == {0, 1}
    import datasets

    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tags.parent / "cache"))
    assert len(rows) == len(made)
    assert rows[0]["images"][0].size == (84, 84)
    messages = [json.loads(line) for line in lines(folder / "messages.jsonl")]
    for row in messages:
        assert "".join(message["content"] for message in row["messages"]).count("<image>") == len(row["images"])
        assert row["messages"][-1]["content"].endswith("</answer>")
    before = lines(folder / "accepted.jsonl")
    assert "0 asked" in run(words), "a second run searched again"
    assert lines(folder / "accepted.jsonl") == before
    assert all(json.loads(line)["stop_reason"] == StopReason.ANSWER for line in before)
