"""docs/grafana.json can be imported as it is; that its series exist is shown on a run in tests/launch/test_job.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tests import dashboard

ROWS = ["Run", "Rollout", "Engine (vLLM)", "Search", "Reward", "Learner"]


def test_it_names_no_data_source_of_one_installation() -> None:
    board = dashboard.load()
    assert board["uid"] == "sake-ray" and "id" not in board
    names = [variable["name"] for variable in board["templating"]["list"]]
    assert names[0] == "datasource", "the other variables ask it"
    shown = [panel for panel in board["panels"] if panel["type"] != "row"]
    sources = [panel["datasource"]["uid"] for panel in shown]
    sources += [target["datasource"]["uid"] for panel in shown for target in panel["targets"]]
    assert set(sources) == {"${datasource}"}


def test_each_panel_stands_in_its_place() -> None:
    panels = dashboard.load()["panels"]
    assert [panel["title"] for panel in panels if panel["type"] == "row"] == ROWS
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        at = panel["gridPos"]
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert cell[0] < 24 and cell not in taken, f"{panel['title']} lies on {taken.get(cell)}"
            taken[cell] = panel["title"]


def test_every_query_is_of_the_chosen_session_and_names_a_series() -> None:
    for query in dashboard.queries():
        assert query.count("(") == query.count(")") and "ray_" in query
        assert query.startswith("label_values(") or 'SessionName=~"$session"' in query, query


def test_the_counters_a_small_run_cannot_show_are_vllms_own() -> None:
    spec = importlib.util.find_spec("vllm")  # without importing it, which takes seconds
    assert spec is not None and spec.origin is not None
    source = (Path(spec.origin).parent / "v1" / "metrics" / "loggers.py").read_text(encoding="utf-8")
    for series in dashboard.RARE:
        assert f'"{series.removeprefix("ray_").removesuffix("_total").replace("vllm_", "vllm:", 1)}"' in source
