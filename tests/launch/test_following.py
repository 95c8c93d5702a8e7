"""Following a run's best policy: whole copies, however the run replaces it meanwhile, and none that nobody needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launch import following
from launch.following import Follower
from sake_ray.serving.messages import PolicyCard


def put_policy(run: Path, step: int) -> None:
    """As a run does it: a folder beside, then in the place of the old one."""
    beside = run / "beside"
    (beside / "more").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "more/tokenizer.json"):
        (beside / name).write_text(f"{name} of {step}")
    (beside / "best.json").write_text(json.dumps({"checkpoint": f"step-{step:06d}", "value": step / 100}))
    shutil.rmtree(run / "best_policy", ignore_errors=True)
    beside.rename(run / "best_policy")


def files_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "rl_mini").mkdir()
    (tmp_path / "copies").mkdir()
    return tmp_path / "rl_mini"


@pytest.fixture
def follower(run: Path) -> Follower:
    return Follower(run, "a", run.parent / "copies")


def looked(follower: Follower) -> PolicyCard:
    card = follower.look()
    assert card is not None
    return card


def test_each_new_policy_is_told_once_with_a_whole_copy_of_its_own(run: Path, follower: Follower) -> None:
    assert follower.look() is None
    put_policy(run, 2)
    first = looked(follower)
    assert follower.look() is None
    assert (first.name, first.model, first.checkpoint, first.version) == ("a", "rl_mini/best_policy", "step-000002", 0)
    put_policy(run, 4)
    second = looked(follower)
    assert (second.checkpoint, second.version) == ("step-000004", 1)
    assert files_of(Path(second.folder)) == files_of(run / "best_policy")
    assert files_of(Path(first.folder))["model.safetensors"] == "model.safetensors of 2", "a copy never changes"


@pytest.mark.parametrize("how", ["replaced before", "replaced after", "vanishes"])
def test_a_policy_that_is_replaced_while_it_is_copied_is_looked_at_again(
    run: Path, follower: Follower, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_policy(run, 2)

    def meanwhile(source: Path, target: Path, **more: Any) -> Any:
        if how == "replaced before":
            put_policy(run, 4)
        elif how == "vanishes":
            (source / "model.safetensors").unlink()
            shutil.copytree(source, target, **more)
            raise shutil.Error([("model.safetensors", "gone")])
        copied = shutil.copytree(source, target, **more)
        if how == "replaced after":
            put_policy(run, 4)
        return copied

    stand_in = SimpleNamespace(copytree=meanwhile, rmtree=shutil.rmtree, Error=shutil.Error)
    monkeypatch.setattr(following, "shutil", stand_in)
    assert follower.look() is None
    assert not any((run.parent / "copies").iterdir()), "nothing half done is left"
    monkeypatch.undo()
    put_policy(run, 4)
    card = looked(follower)
    assert (card.checkpoint, card.version) == ("step-000004", 0)
    assert set(files_of(Path(card.folder)).values()) == set(files_of(run / "best_policy").values())


def test_a_policy_without_its_note_or_half_there_is_waited_for(run: Path, follower: Follower) -> None:
    put_policy(run, 2)
    note = (run / "best_policy" / "best.json").read_bytes()
    (run / "best_policy" / "best.json").unlink()
    assert follower.look() is None
    (run / "best_policy" / "best.json").write_bytes(note)
    (run / "best_policy" / "config.json").unlink()
    assert follower.look() is None


@pytest.mark.parametrize("note", ["{", "[]", '{"checkpoint": 5}', '{"checkpoint": "../../etc"}', '{"checkpoint": ""}'])
def test_a_note_that_says_nothing_sensible_names_no_folder(run: Path, follower: Follower, note: str) -> None:
    put_policy(run, 2)
    (run / "best_policy" / "best.json").write_text(note)
    card = looked(follower)
    assert card.checkpoint == "best" and Path(card.folder).parent == run.parent / "copies"


def test_copies_that_are_served_no_more_are_removed_and_others_kept(run: Path, follower: Follower) -> None:
    cards = []
    for step in (2, 4, 6):
        put_policy(run, step)
        cards.append(looked(follower))
    follower.forget_before(cards[1])
    assert [Path(card.folder).is_dir() for card in cards] == [False, True, True]


def test_copies_of_an_earlier_service_are_gone(run: Path) -> None:
    put_policy(run, 2)
    old = run.parent / "earlier" / "000007-step-000002"
    old.mkdir(parents=True)
    follower = Follower(run, "a", old.parent)
    assert files_of(Path(looked(follower).folder)) == files_of(run / "best_policy")
    assert not old.exists()
