"""One policy turn sampled in pieces: what new weights cut off goes on where it was, and counts as one completion.

Knows token ids and texts; nothing of vLLM or weights. What becomes of turns under way when new weights come:
`wait` lets them end first, so a turn has one version; `abort` cuts them, keeps what was sampled, and samples the rest
from the new weights, the prompt computed anew; `keep` freezes them and goes on with the keys and values of the old
weights in the cache (cheapest, and furthest from what the learner computes). Always holds: no sampled token is dropped
or sampled again, each keeps its log-prob and version, and the text is that of the joined ids, so that a stop string
across a cut ends the turn as it would have without one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sake_ray.types import Completion


@dataclass(frozen=True, slots=True)
class Piece:
    """What one request gave. `stop_reason` is the stop string that ended it, if one did."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    versions: tuple[int, ...]
    text: str
    finish_reason: str
    stop_reason: str | int | None = None


class TurnInPieces:
    """Add pieces until `done`."""

    def __init__(self, stop: Sequence[str], max_tokens: int, decode: Callable[[Sequence[int]], str]) -> None:
        self.token_ids: list[int] = []
        self.pieces = 0
        self.done = False
        self._stop, self._max_tokens, self._decode = tuple(stop), max_tokens, decode
        self._logprobs: list[float] = []
        self._versions: list[int] = []
        self._text = ""
        self._finish_reason = "length"

    @property
    def room(self) -> int:
        """How many tokens may still be sampled."""
        return self._max_tokens - len(self.token_ids)

    def stops(self) -> list[str]:
        """What ends the next piece: the stop strings, and what is left of one whose beginning is there already."""
        rests = [
            stop[length:] for stop in self._stop for length in range(1, len(stop)) if self._text.endswith(stop[:length])
        ]
        return [*self._stop, *rests]

    def add(self, piece: Piece) -> None:
        """The next piece, for `room` tokens at most and with `stops()`."""
        self.token_ids.extend(piece.token_ids)
        self._logprobs.extend(piece.logprobs)
        self._versions.extend(piece.versions)
        self.pieces += 1
        self._text = piece.text if self.pieces == 1 else self._cut(self._decode(self.token_ids))
        ended = piece.finish_reason not in ("abort", "length")
        if ended and isinstance(piece.stop_reason, str) and piece.stop_reason not in self._stop:
            ended = any(stop in self._text for stop in self._stop)  # else its rest stood there by chance
        if ended:
            self.done, self._finish_reason = True, piece.finish_reason
        elif self.room <= 0 or piece.finish_reason == "length":
            self.done, self._finish_reason = True, "length"

    def completion(self) -> Completion:
        """The turn as one completion."""
        oldest = min(self._versions, default=0)
        mixed = any(version != oldest for version in self._versions)
        return Completion(
            tuple(self.token_ids),
            tuple(self._logprobs),
            self._text,
            self._finish_reason,
            oldest,
            tuple(self._versions) if mixed else (),
        )

    def _cut(self, text: str) -> str:
        """`text` up to the end of its first stop string."""
        ends = [at + len(stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text
