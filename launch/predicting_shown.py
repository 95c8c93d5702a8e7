"""An answer for people: a table of its entities, and what was thought and searched in each turn.

Knows nothing of where the answer comes from. Always holds: nothing of it steers a terminal; markup in it is text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_REASON_CHARS, _FOUND_CHARS = 400, 240
_UNSEEN = ("Cc", "Cs", "Co", "Cn", "Zl", "Zp")
_TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_STOPS = {
    "malformed": "the answer cannot be read",
    "search_limit": "it asked for more searches than it may make",
    "turn_limit": "it came to no answer in the turns it has",
    "truncated": "it came to no answer in the tokens it has",
}


def show(result: Mapping[str, Any], file: TextIO) -> None:
    """Write a result."""
    console = Console(file=file, highlight=False, soft_wrap=False)
    entities = result["entities"]
    console.print(Text(plain(result["text"]), style="bold"))
    stop = str(result["stop"])
    if stop != "answer":
        console.print(Text(f"no entities: {_STOPS.get(stop, plain(stop))}"))
    elif not entities:
        console.print(Text("no entities"))
    else:
        console.print(_table(entities))
    for number, turn in enumerate(result["turns"], start=1):
        console.print(Text(f"turn {number}: {_action(turn)}", style="bold"))
        for line in _lines(turn):
            console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
    console.print(Text(_foot(result), style="dim"))


def plain(value: object, most: int = 4_000) -> str:
    """A text on one line without what steers a terminal, cut to `most` characters."""
    said = " ".join(str(value)[: 4 * most].split())
    kept = "".join("�" if unicodedata.category(each) in _UNSEEN else each for each in said if each not in _TURNING)
    return kept if len(kept) <= most else kept[: most - 1].rstrip() + "…"


def _table(entities: list[Mapping[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("#", "entity", "type", "box", "from"):
        table.add_column(name, overflow="fold")
    for number, entity in enumerate(entities, start=1):
        box = entity.get("box")
        place = ", ".join(plain(side, 12) for side in box) if isinstance(box, list) else "–"
        whence = "searched" if entity.get("searched") else "known"
        cells = (str(number), plain(entity["text"], 200), plain(entity["type"], 40), place, whence)
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _action(turn: Mapping[str, Any]) -> str:
    action = plain(turn.get("action", ""), 40).replace("_", " ")
    return f"{action} ({plain(turn['malformed'], 60)})" if turn.get("malformed") else action


def _lines(turn: Mapping[str, Any]) -> Iterator[str]:
    if reasoning := plain(turn.get("reasoning", ""), _REASON_CHARS):
        yield reasoning
    search = turn.get("search")
    results = search.get("results") if isinstance(search, Mapping) else None
    for result in results if isinstance(results, list) else []:
        if not isinstance(result, Mapping):
            continue
        status = plain(result.get("status", ""), 40).replace("_", " ")
        reason = f" ({plain(result['reason'], 60)})" if result.get("reason") else ""
        pictures = len(result["images"]) if isinstance(result.get("images"), list) else 0
        found = [f"{pictures} picture{'s' * (pictures != 1)}"] if pictures else []
        found += [text] if (text := plain(result.get("text") or "", _FOUND_CHARS)) else []
        yield f"“{plain(result.get('query', ''), 120)}” → {status}{reason}{': ' if found else ''}{'; '.join(found)}"


def _foot(result: Mapping[str, Any]) -> str:
    policy, seconds = result["policy"], result.get("seconds")
    parts = [plain(policy.get("model", ""), 120), plain(policy.get("checkpoint", ""), 120)]
    total = seconds.get("total") if isinstance(seconds, Mapping) else None
    parts += [f"{total:.2f} s"] if isinstance(total, int | float) else []
    return " · ".join(part for part in parts if part)
