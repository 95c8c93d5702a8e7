"""The store of answers: what it gives back, in which mode, how large it gets, and what it refuses."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.answers.store import AnswerStore
from envs.answers.stored import AnswerStoreError, ReadOnlyStoreError
from tests.envs.answers.store_case import Clock, key, open_store, picture


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "pictures").rglob("*") if path.is_file())


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_answer_comes_back_with_its_pictures_in_order_and_after_reopening(tmp_path: Path) -> None:
    value = {"status": "success", "text": "Ada \ud800 \0 ☃", "reason": None, "query": "Ada"}
    with open_store(tmp_path / "store") as store:
        assert store.get(key()) is None
        pictures = (picture(store, b"two"), picture(store, b"one"), picture(store, b"two"))
        put = store.put(key(), value, pictures=pictures)
        assert store.get(key()) == put
    with open_store(tmp_path / "store") as store:
        stored = store.get(key())
        assert stored == put
        assert stored is not None and stored.value == value
        assert [p.path.read_bytes() for p in stored.pictures] == [b"two", b"one", b"two"]
        assert stored.pictures[0].path.is_absolute()
        assert store.get(key("bob")) is None
        assert store.get(key("ada", "image")) is None


def test_the_same_bytes_are_kept_once_as_they_first_came(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        first = store.add_picture(b"same", ".jpg", 30, 20)
        assert store.add_picture(b"same", ".png", 3, 2) == first
        assert [path.read_bytes() for path in files_of(tmp_path)] == [b"same"]


def test_on_an_old_answer_is_absent_and_a_put_replaces(tmp_path: Path) -> None:
    clock = Clock()
    with open_store(tmp_path, clock, ttl_s=100) as store:
        store.put(key(), {"n": 1})
        clock.now += 100
        assert store.get(key()) is not None
        clock.now += 1
        assert store.get(key()) is None
        store.put(key(), {"n": 2})
        stored = store.get(key())
        assert stored is not None and (stored.value, stored.created) == ({"n": 2}, clock.now)
        assert store.stats().answers == 1


def test_record_the_first_answer_is_final_however_old_and_whoever_put_it(tmp_path: Path) -> None:
    clock = Clock()
    with open_store(tmp_path, clock, mode="record") as one, open_store(tmp_path, clock, mode="record") as other:
        first = one.put(key(), {"n": 1}, pictures=[picture(one)])
        clock.now += 1_000_000
        assert other.put(key(), {"n": 2}) == first
        assert one.get(key()) == other.get(key()) == first


def test_record_an_answer_that_cannot_be_read_whole_any_more_is_put_anew(tmp_path: Path) -> None:
    with open_store(tmp_path, mode="record") as store:
        store.put(key(), {"n": 1}, pictures=[picture(store)]).pictures[0].path.unlink()
        assert store.get(key()) is None
        assert store.put(key(), {"n": 2}).value == {"n": 2}
        assert picture(store).path.is_file()


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_an_answer_without_one_of_its_pictures_is_absent(tmp_path: Path, damage: str) -> None:
    with open_store(tmp_path) as store:
        path = store.put(key(), {}, pictures=[picture(store, b"a"), picture(store, b"bb")]).pictures[1].path
        path.unlink() if damage == "gone" else path.write_bytes(b"b")
        assert store.get(key()) is None
        store.put(key(), {}, pictures=[picture(store, b"bb")])
        assert store.get(key()) is not None


def test_read_only_gives_all_however_old_and_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "rec # ? %20"
    with open_store(folder, mode="record") as store:
        put = store.put(key(), {"n": 1}, pictures=[picture(store)], post="p1")
    before = everything_in(folder)
    late = Clock()
    late.now *= 1000
    with open_store(folder, late, mode="read_only") as store:
        assert store.get(key()) == put
        store.note_asked(key(), "p2")
        for write in (lambda: store.put(key("b"), {}), lambda: picture(store), lambda: store.prune(0)):
            with pytest.raises(ReadOnlyStoreError, match="read_only"):
                write()
        assert list(store.posts()) == ["p1"]
        assert everything_in(folder) == before
    assert everything_in(folder) == before


def test_read_only_sees_what_another_job_writes_meanwhile(tmp_path: Path) -> None:
    open_store(tmp_path, mode="record").close()
    with open_store(tmp_path, mode="read_only") as reader:
        assert reader.get(key()) is None
        with open_store(tmp_path, mode="record") as writer:
            writer.put(key(), {"n": 1})
            assert reader.get(key()) is not None
            writer.put(key("bob"), {"n": 2})
            assert reader.get(key("bob")) is not None
        assert reader.get(key()) is not None


def test_over_its_size_the_store_drops_what_was_not_given_for_longest(tmp_path: Path) -> None:
    clock = Clock()
    with open_store(tmp_path, clock, max_bytes=100_000) as store:
        for n in range(9):
            clock.now += 1
            store.put(key(f"q{n}"), {"text": "x" * 9_000}, pictures=[picture(store, b"%d" % n * 1_000)], post=f"p{n}")
        clock.now += 1
        assert store.get(key("q0")) is not None  # noted in memory alone, and yet it counts
        store.put(key("q9"), {"text": "x" * 9_000})
        assert store.stats().bytes <= 90_000
        kept = [n for n in range(10) if store.get(key(f"q{n}")) is not None]
        assert kept == [0, 3, 4, 5, 6, 7, 8, 9]
        assert "p1" not in list(store.posts())


def test_pictures_go_a_while_after_their_last_answer_and_not_while_another_shows_them(tmp_path: Path) -> None:
    clock = Clock()
    with open_store(tmp_path, clock, keep_s=100) as store, open_store(tmp_path, clock, keep_s=100) as other:
        shared, lonely = picture(store, b"shared"), picture(store, b"lonely")
        store.put(key("a"), {}, pictures=[shared, lonely])
        store.put(key("b"), {}, pictures=[shared])
        store.put(key("a"), {})  # shows neither any more
        assert store.stats().loose_bytes == len(b"lonely")
        clock.now += 99
        other.put(key("c"), {})
        assert lonely.path.is_file()
        clock.now += 26
        other.put(key("d"), {})
        assert (lonely.path.exists(), shared.path.is_file()) == (False, True)
        with pytest.raises(AnswerStoreError, match="add the picture again"):
            store.put(key("a"), {}, pictures=[lonely])
        assert store.get(key("a")) is not None  # the put that failed changed nothing
        store.put(key("a"), {}, pictures=[picture(store, b"lonely")])
        assert lonely.path.is_file()


def test_a_recording_grows_over_its_size_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), open_store(tmp_path, mode="record", max_bytes=1_000) as store:
        for n in range(5):
            store.put(key(f"q{n}"), {"text": "x" * 900})
        assert store.stats().answers == 5
    assert len(caplog.records) == 1 and "cache_gib" in caplog.text


def test_pruning_brings_the_store_to_a_size_and_removes_what_belongs_to_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for n in range(20):
            store.put(key(f"q{n}"), {"text": "x" * 9_000}, pictures=[picture(store, b"%d" % n * 1_000)])
        stray = tmp_path / "pictures" / "00" / ("0" * 64 + ".jpg")
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"left by a killed process")
        pruned = store.prune(50_000, keep_s=0)
        stats = store.stats()
        assert stats.bytes <= 50_000 and stats.answers == 20 - pruned.answers > 0
        assert (pruned.stray_files, stray.exists(), stats.loose_bytes) == (1, False, 0)
        assert len(files_of(tmp_path)) == stats.pictures == stats.answers
        assert (tmp_path / "answers.sqlite").stat().st_size < 150_000


@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.lists(st.integers(0, 4), max_size=3), st.integers(0, 60), st.integers(0, 40)),
        max_size=20,
    )
)
def test_the_accounts_hold_whatever_is_put(tmp_path_factory: pytest.TempPathFactory, puts: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("accounts")
    clock = Clock()
    with open_store(folder, clock, max_bytes=2_500, keep_s=50) as store:
        for n, shown, length, later in puts:
            clock.now += later
            store.put(key(f"q{n}"), {"t": "x" * length}, pictures=[picture(store, b"%d" % i * 300) for i in shown])
            assert store.stats().bytes <= 2_500
    database = sqlite3.connect(folder / "answers.sqlite")
    counted = database.execute(
        "SELECT (SELECT count(*) FROM answers), (SELECT count(DISTINCT picture) FROM shown), "
        "(SELECT coalesce(sum(bytes), 0) FROM answers) + "
        "(SELECT coalesce(sum(bytes), 0) FROM pictures WHERE id IN (SELECT picture FROM shown))"
    ).fetchone()
    assert database.execute("SELECT answers, pictures, bytes FROM totals").fetchone() == counted
    loose = "SELECT count(*) FROM pictures WHERE (loose_since IS NULL) != (id IN (SELECT picture FROM shown))"
    assert database.execute(loose).fetchone() == (0,)
    assert database.execute("SELECT count(*) FROM pictures").fetchone() == (len(files_of(folder)),)
    database.close()


def test_it_is_known_which_post_asked_what_in_which_order(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.put(key("b"), {}, post="p2")
        store.put(key("a"), {}, post="p1")
        for query in ("b", "a", "nobody answered"):
            store.note_asked(key(query), "p1")
    with open_store(tmp_path) as store:
        assert list(store.posts()) == ["p1", "p2"]
        assert [kept.key for kept in store.asked_by("p1")] == [key("a"), key("b")]
        assert [kept.key for kept in store.answers()] == [key("b"), key("a")]
        assert list(store.answers("another")) == []


def test_who_asked_is_written_without_a_put_or_a_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose answers are all there already never puts, and may be killed."""
    monkeypatch.setattr("envs.answers.store._FLUSH_S", 0.0)
    with open_store(tmp_path) as store, open_store(tmp_path, mode="read_only") as reader:
        store.put(key(), {})
        store.note_asked(key(), "p1")
        deadline = time.monotonic() + 30
        while not list(reader.posts()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert list(reader.posts()) == ["p1"]


def test_the_budget_of_the_day_may_lie_in_the_folder_first(tmp_path: Path) -> None:
    (tmp_path / "budget.sqlite").touch()
    with open_store(tmp_path) as store:
        assert store.put(key(), {"a": 1}) == store.get(key())
    assert (tmp_path / "budget.sqlite").read_bytes() == b""


def test_all_threads_of_a_process_may_use_it(tmp_path: Path) -> None:
    with open_store(tmp_path, mode="record") as store:

        def use(worker: int) -> None:
            for n in range(30):
                put = store.put(key(f"q{n}"), {"by": worker}, pictures=[picture(store, b"%d" % n)], post=f"p{worker}")
                assert store.get(key(f"q{n}")) == put

        threads = [threading.Thread(target=use, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.stats().answers == store.stats().pictures == 30
        assert [len(store.asked_by(f"p{worker}")) for worker in range(4)] == [30] * 4


# --- what is refused -----------------------------------------------------------------------------


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(AnswerStoreError, match=r"thesis\.tex.*empty folder"):
        open_store(tmp_path)
    with pytest.raises(AnswerStoreError, match="is a file"):
        open_store(tmp_path / "thesis.tex")
    with pytest.raises(AnswerStoreError, match="record one first"):
        open_store(tmp_path, mode="read_only")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("mode", ["on", "read_only"])
@pytest.mark.parametrize(
    ("statement", "message"),
    [("PRAGMA user_version = 7", "has format 7"), ("PRAGMA application_id = 7", "is no store of answers")],
)
def test_a_database_of_another_format_is_refused(tmp_path: Path, mode: str, statement: str, message: str) -> None:
    open_store(tmp_path).close()
    database = sqlite3.connect(tmp_path / "answers.sqlite")
    database.execute(statement)
    database.close()
    with pytest.raises(AnswerStoreError, match=rf"answers\.sqlite: {message}"):
        open_store(tmp_path, mode=mode)


@pytest.mark.parametrize("mode", ["on", "record", "read_only"])
def test_a_damaged_database_is_named_with_a_remedy_and_nothing_is_deleted(tmp_path: Path, mode: str) -> None:
    with open_store(tmp_path) as store:
        for n in range(200):
            store.put(key(f"q{n}"), {"text": "x" * 500})
    path = tmp_path / "answers.sqlite"
    whole = path.read_bytes()
    for damaged in (b"not a database " * 1_000, whole[:4096] + b"\xaa" * (len(whole) - 4096)):
        path.write_bytes(damaged)
        with pytest.raises(AnswerStoreError, match=r"answers\.sqlite: is damaged.*Restore"):
            store = open_store(tmp_path, mode=mode)
            try:
                store.get(key("q7"))
            finally:
                store.close()
        assert path.read_bytes() == damaged


def test_a_value_that_could_not_be_read_again_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for value in ({"a": float("nan")}, {"a": object()}, {"a": "x" * 2_000_000}):
            with pytest.raises(ValueError, match=r"(?i)json|characters"):
                store.put(key(), value)
        for suffix in ("jpg", "/../x", ".jpg/", ""):
            with pytest.raises(ValueError, match="suffix"):
                store.add_picture(b"x", suffix, 1, 1)
        with pytest.raises(ValueError, match="0 x 1"):
            store.add_picture(b"x", ".jpg", 0, 1)
    with pytest.raises(AnswerStoreError, match="closed"):
        store.get(key())
    with pytest.raises(ValueError, match=r"search\.cache"):
        AnswerStore(tmp_path, mode="off", max_bytes=1, ttl_s=1)
