"""The real service as a process of its own, and posts to ask it with: what measurements of it have in common.

Knows nothing of what is measured. Always holds: the service and all that it started end with the block; one that does
not come up ends the script with the end of its log.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from launch.make_train import free_ports
from sake_ray.config.sections import WorldConfig
from sake_ray.data.loading import load_split
from sake_ray.data.miniworld_files import WorldSpec, ensure_world

ROOT = Path(__file__).resolve().parents[1]
START_S = 300.0
LARGE = "large"
Post = dict[str, str]


def make_posts(folder: Path, count: int) -> list[Post]:
    """Posts of a MiniWorld of its own, as requests; `posts.jsonl` in `folder` is for the bare arm."""
    spec = WorldSpec(**asdict(WorldConfig()) | {"train_posts": count})
    examples = load_split(ensure_world(folder / "world", spec), "train").examples
    posts = [
        {"text": post.text, "image": base64.b64encode(Path(post.image.path).read_bytes()).decode("ascii")}
        for post in examples
    ]
    (folder / "posts.jsonl").write_text("".join(json.dumps(post) + "\n" for post in posts), encoding="utf-8")
    return posts


@dataclass(frozen=True)
class Running:
    """The service: its address and its first process."""

    url: str
    pid: int

    def processes(self) -> Iterator[tuple[str, psutil.Process]]:
        """Its processes, Ray's own among them, by kind."""
        replica = "ray::ServeReplica:sake_ray:"
        first = psutil.Process(self.pid)
        for process in (first, *first.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if line.startswith(replica):
                    yield line.removeprefix(replica).split(" ")[0].split(".")[0], process
                elif line.startswith("VLLM::EngineCore"):
                    yield "EngineCore", process
                else:
                    yield "Ray and proxies", process

    def memory(self) -> dict[str, float]:
        """MiB resident, by kind of process."""
        found: Counter[str] = Counter()
        for kind, process in self.processes():
            with contextlib.suppress(psutil.Error):
                found[kind] += process.memory_info().rss / 2**20
        return dict(found)

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        total = 0.0
        for _, process in self.processes():
            with contextlib.suppress(psutil.Error):
                total += sum(process.cpu_times()[:2])
        return total


@contextmanager
def service(model: str, folder: Path, proxy: str) -> Iterator[Running]:
    """The real service, as a process of its own."""
    (port,) = free_ports((8000,))
    command = [sys.executable, str(ROOT / "launch" / "serve.py"), f"model={model}", f"serve.port={port}"]
    command += [f"run.dir={folder / 'service'}", "serve.max_concurrent=512", f"serve.proxy={proxy}"]
    command += settings_of(model)
    log = folder / "service.log"
    with log.open("w") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
    try:
        deadline = time.monotonic() + START_S
        while "serving at" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the service did not come up:\n{log.read_text()[-3000:]}")
            time.sleep(0.5)
        yield Running(f"http://127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        process.wait(timeout=120)


def settings_of(model: str) -> list[str]:
    """What is said of a model; a run's policy has its run's own settings."""
    return ["preset=mini"] if Path(model).name == LARGE else []
