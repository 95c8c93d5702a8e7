"""A job's status as a table for the terminal.

Knows nothing of Ray: a status in, something rich draws out. Always holds: what comes from the job is shown as text,
never as markup; a number that is not there is left empty, not made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_STATES = {"serving": "green", "starting": "yellow", "placing": "yellow", "draining": "cyan", "lost": "red"}
_COLUMNS = ("version", "running", "waiting", "KV", "hits", "tok/s")
_OTHERS = ("load", "trajectories", "pending", "searches", "scored", "step", "tokens_per_s", "rebuilds")


def draw(status: Mapping[str, Any], before: Mapping[str, Any] | None) -> RenderableType:
    """The status; `before` is an earlier one, from which speeds are told."""
    parts: list[RenderableType] = [_head(status), _groups(status["trainer"])]
    pools = {**status["pools"], "learner": status["learner"]}
    earlier = {**before["pools"], "learner": before["learner"]} if before else {}
    seconds = status["time"] - before["time"] if before else 0.0
    table = Table(box=None, pad_edge=False)
    for column in ("actor", "state", "node", *_COLUMNS, "other"):
        table.add_column(column, justify="left" if column in ("actor", "state", "node", "other") else "right")
    for name, pool in pools.items():
        known = {actor["name"]: actor["numbers"] for actor in earlier.get(name, {}).get("actors", ())}
        for actor in pool["actors"]:
            table.add_row(*_row(actor, known.get(actor["name"], {}), seconds))
        if "error" in pool:
            table.add_row(Text(name), Text(str(pool["error"]), style="red"))
        elif "size" in pool and len(pool["actors"]) != pool["size"]:
            table.add_row(Text(name), Text(f"on the way to {pool['size']}", style="yellow"))
    return Group(*parts, table)


def _head(status: Mapping[str, Any]) -> Text:
    view = status["trainer"]
    head = Text(str(status["run_dir"]), style="bold")
    if not view:
        return head.append("   before the first step", style="dim")
    head.append(f"   step {view['step']} of {view['total_steps']}, {view['phase']}; policy {view['policy_version']}")
    times = view.get("times", {})
    if times:
        shown = "  ".join(f"{name} {seconds:.1f}" for name, seconds in times.items())
        head.append(f"\nlast step, seconds: {shown}", style="dim")
    return head


def _groups(view: Mapping[str, Any]) -> Text:
    if "groups" not in view:
        return Text("")
    groups = view["groups"]
    text = Text("groups: " + "  ".join(f"{name} {count}" for name, count in groups.items()))
    ages = view.get("staleness") or {}
    if ages:
        text.append("\nready, by age in versions: " + "  ".join(f"{age}: {count}" for age, count in ages.items()))
    return text


def _row(actor: Mapping[str, Any], before: Mapping[str, float], seconds: float) -> list[Text]:
    numbers = actor["numbers"]
    speed = ""
    if seconds > 0 and "generated_tokens" in numbers and "generated_tokens" in before:
        speed = f"{max(0.0, numbers['generated_tokens'] - before['generated_tokens']) / seconds:.0f}"
    cells = [_number(numbers, "version"), _number(numbers, "running"), _number(numbers, "waiting")]
    cells += [_share(numbers, "kv_usage"), _share(numbers, "prefix_hit_rate"), speed]
    other = "  ".join(f"{name} {numbers[name]:g}" for name in _OTHERS if name in numbers)
    state = str(actor["state"])
    return [
        Text(str(actor["name"])),
        Text(state, style=_STATES.get(state, "")),
        Text(str(actor["node"])[:8]),
        *(Text(cell) for cell in cells),
        Text(other, style="dim"),
    ]


def _number(numbers: Mapping[str, float], name: str) -> str:
    return f"{numbers[name]:g}" if name in numbers else ""


def _share(numbers: Mapping[str, float], name: str) -> str:
    return f"{100 * numbers[name]:.0f} %" if name in numbers else ""
