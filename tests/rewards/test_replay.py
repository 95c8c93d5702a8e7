"""Saved turns are replayed by the environment's rules: where an episode ends, which searches were run, its format."""

from __future__ import annotations

import pytest

from rewards.replay import Replay, replay
from sake_ray.types import Answer

TEXT = '<reason>r</reason><text_search>["a"]</text_search>'
IMAGE = '<reason>r</reason><image_search>[{"q": "a"}]</image_search>'
BLANK = '<reason>r</reason><text_search>[{"query": " "}]</text_search>'
END = "<reason>r</reason><answer>[]</answer>"
DONE = Answer(())


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([END], Replay(DONE, 0, 1)),
        ([TEXT, END], Replay(DONE, 1, 1)),
        ([TEXT, IMAGE, END], Replay(DONE, 2, 1)),
        ([IMAGE, TEXT, END], Replay(DONE, 2, 1)),
        ([], Replay(None, 0, 0)),
        ([TEXT], Replay(None, 0, 0)),  # nobody answered it
        ([TEXT, TEXT, END], Replay(None, 1, 0)),  # the second was refused
        ([TEXT, IMAGE], Replay(None, 1, 0)),
        ([BLANK, END], Replay(None, 0, 0)),
        ([TEXT, END + " done"], Replay(None, 1, 0)),
        ([END, END], Replay(DONE, 0, 0)),
        (["?", END], Replay(None, 0, 0)),
    ],
)
def test_an_episode_ends_at_its_first_turn_that_is_no_allowed_search(turns: list[str], expected: Replay) -> None:
    assert replay(turns) == expected
