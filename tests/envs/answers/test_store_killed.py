"""The store under several processes: killed while they write, racing for a key, evicting."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from envs.answers.store import AnswerStore
from tests.envs.answers.store_case import key

ROOT = Path(__file__).parents[3]

# Writes for ever: answers with pictures of their own, replaced and evicted as it goes.
_WRITER = """
import itertools, sys
from pathlib import Path
from envs.answers.store import AnswerStore
from envs.answers.stored import AnswerStoreError
from tests.envs.answers.store_case import key
store = AnswerStore(Path(sys.argv[1]), mode="on", max_bytes=400_000, ttl_s=1e9, keep_s=1)
for n in itertools.count(int(sys.argv[2])):
    data = b"%d" % n * 2_000
    pictures = [store.add_picture(data, ".jpg", 3, 2), store.add_picture(b"%d" % (n % 7) * 99, ".png", 3, 2)]
    try:
        store.put(key(f"q{n % 50}"), {"n": n}, pictures=pictures, post=f"p{n % 5}")
    except AnswerStoreError as error:  # the machine was so busy that over a second went by since it was added
        if "add the picture again" not in str(error):
            raise
    if n % 5 == 0:
        sys.stdout.write("x"); sys.stdout.flush()
"""

# Puts the same keys as its rivals, and says what stood afterwards.
_RIVAL = """
import json, sys
from pathlib import Path
from envs.answers.store import AnswerStore
from tests.envs.answers.store_case import key
sys.stdin.readline()
store = AnswerStore(Path(sys.argv[1]), mode="record", max_bytes=1 << 30, ttl_s=1)
stood = []
for n in range(40):
    picture = store.add_picture(f"{n} {sys.argv[2]}".encode(), ".jpg", 3, 2)
    put = store.put(key(f"q{n}"), {"by": sys.argv[2]}, pictures=[picture])
    stood.append([put.value["by"], put.pictures[0].path.read_text()])
store.close()
json.dump(stood, sys.stdout)
"""


def start(program: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def check_whole(folder: Path) -> int:
    """Everything in the store is as it must be; returns how many answers there are."""
    with AnswerStore(folder, mode="on", max_bytes=1 << 30, ttl_s=1e9) as store:
        kept = list(store.answers())
        for item in kept:
            n = item.stored.value["n"]
            assert item.key == key(f"q{n % 50}")
            assert [p.path.read_bytes() for p in item.stored.pictures] == [b"%d" % n * 2_000, b"%d" % (n % 7) * 99]
        assert store.stats().answers == len(kept)
    database = sqlite3.connect(folder / "answers.sqlite")
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    (total,) = database.execute("SELECT bytes FROM totals").fetchone()
    assert database.execute(
        "SELECT (SELECT sum(bytes) FROM answers) + (SELECT sum(bytes) FROM pictures WHERE loose_since IS NULL)"
    ).fetchone() == (total,)
    database.close()
    return len(kept)


def test_a_store_whose_writers_are_killed_at_any_moment_stays_whole(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    for turn in range(3):
        writers = [start(_WRITER, str(folder), str(turn * 1_000 + 500 * i)) for i in range(2)]
        try:
            for writer in writers:
                assert writer.stdout is not None
                assert writer.stdout.read(2 + turn) != b""
        finally:
            for writer in writers:
                writer.send_signal(signal.SIGKILL)
                writer.communicate()
        assert check_whole(folder) > 0
    # What the killed had not finished is no part of the store, and goes in time.
    for path in (folder / "scratch").iterdir():
        os.utime(path, (time.time() - 10_000,) * 2)
    check_whole(folder)
    assert list((folder / "scratch").iterdir()) == []


def test_of_several_processes_that_record_one_key_one_wins_for_all(tmp_path: Path) -> None:
    names = ["a", "b"]
    rivals = [start(_RIVAL, str(tmp_path / "store"), name) for name in names]
    for rival in rivals:  # all are started: now they run
        assert rival.stdin is not None
        rival.stdin.write(b"\n")
        rival.stdin.flush()
    stood = [json.loads(rival.communicate(timeout=60)[0]) for rival in rivals]
    assert stood[0] == stood[1]
    assert all(read == f"{n} {by}" for n, (by, read) in enumerate(stood[0]))
