"""How quick the store of search answers is: gets and puts a second, with one process and with eight on one store.

    python benchmarks/search_store.py [folder=/tmp/search_store] [answers=2000]

An answer is 600 characters of text, or three pictures of 30 kB. Always holds: every figure is of this run on this
machine; the folder is made anew and removed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs uninstalled

from benchmarks.script import words_or_exit  # noqa: E402
from envs.answers.key import AnswerKey  # noqa: E402
from envs.answers.store import AnswerStore  # noqa: E402

PROCESSES = 8
_TEXT = "Ada Lovelace was a mathematician and writer. " * 13


def measure(folder: Path, answers: int = 2_000) -> dict[str, float]:
    """Rates (a second) and medians (microseconds) by name; `folder` must be empty, or not exist."""
    found: dict[str, float] = {}
    with _open(folder) as store:
        found |= _timed("put_text", answers, lambda n: _put(store, "text", n))
        found |= _timed("put_three_pictures", answers // 10, lambda n: _put_pictures(store, n))
        found |= _timed("get_text", 5 * answers, lambda n: store.get(_key("text", n % answers)))
        found |= _timed("get_three_pictures", answers, lambda n: store.get(_key("image", n % (answers // 10))))
        found |= _timed("get_absent", answers, lambda n: store.get(_key("absent", n)))
    for action in ("get", "put"):
        found[f"{action}_text_{PROCESSES}_processes_per_s"] = _together(folder, action, answers)
    return found


def _timed(name: str, count: int, act: Callable[[int], object]) -> dict[str, float]:
    times = []
    for n in range(count):
        begin = time.perf_counter()
        act(n)
        times.append(time.perf_counter() - begin)
    return {
        f"{name}_per_s": round(count / sum(times)),
        f"{name}_p50_us": round(median(times) * 1e6, 1),
        f"{name}_p99_us": round(sorted(times)[int(0.99 * count)] * 1e6, 1),
    }


def _together(folder: Path, action: str, answers: int) -> float:
    """What all processes do a second, together, from the moment all of them are ready."""
    program = f"import benchmarks.search_store as b; b.work({str(folder)!r}, {action!r}, {answers}, %d)"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program % index], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for index in range(PROCESSES)
    ]
    for worker in workers:
        assert worker.stdout is not None and worker.stdin is not None
        worker.stdout.readline()
    begin = time.perf_counter()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate()
        if worker.returncode:
            raise RuntimeError(f"a worker ended with status {worker.returncode}; its error is above")
    return round(PROCESSES * answers / (time.perf_counter() - begin))


def work(folder: str, action: str, answers: int, index: int) -> None:
    """What one of several processes does."""
    with _open(Path(folder)) as store:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        for n in range(answers):
            if action == "get":
                store.get(_key("text", n))
            else:
                _put(store, f"text{index}", n)


def _open(folder: Path) -> AnswerStore:
    return AnswerStore(folder, mode="on", max_bytes=2**40, ttl_s=1e9)


def _key(kind: str, n: int) -> AnswerKey:
    return AnswerKey.of("serper", kind, f"Ada Lovelace {n}", {"shown": 1, "max_chars": 2000, "text_results": 5})


def _value(text: str) -> Mapping[str, object]:
    return {"status": "success", "text": text, "reason": "", "query": "Ada Lovelace"}


def _put(store: AnswerStore, kind: str, n: int) -> None:
    store.put(_key(kind, n), _value(_TEXT), post=f"p{n % 100}")


def _put_pictures(store: AnswerStore, n: int) -> None:
    pictures = [store.add_picture(b"%d %d " % (n, place) * 4_000, ".jpg", 640, 480) for place in range(3)]
    store.put(_key("image", n), _value(""), pictures=pictures, post=f"p{n % 100}")


def main(arguments: list[str]) -> None:
    """Measure and write the figures as JSON."""
    words = words_or_exit(arguments, ["folder", "answers"], __doc__)
    with tempfile.TemporaryDirectory(dir=words.get("folder")) as folder:
        figures = measure(Path(folder) / "store", int(words.get("answers", "2000")))
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
