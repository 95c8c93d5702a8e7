"""The release's search cache into a store and out of it: what the offline tool shows is what the store holds."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from envs.answers.key import AnswerKey, normalised
from envs.answers.released import export_released, import_released
from envs.answers.store import AnswerStore
from envs.tools.offline import OfflineSearchTool
from envs.tools.search_cache import SearchCacheError
from envs.tools.shown import ShownSettings, shown_key, shown_result, shown_value
from sake_ray.bounded_json import parse_json
from sake_ray.types import QueryResult, SearchFailure, SearchKind
from tests.envs.answers.store_case import open_store

SHOWN = ShownSettings(images_per_query=2)


def options_of(kind: SearchKind) -> dict[str, Any]:
    options = parse_json(shown_key("serper", kind, "", SHOWN).options, max_chars=1_000, max_depth=2)
    assert isinstance(options, dict)
    return options


def jpeg(shade: int) -> bytes:
    data = io.BytesIO()
    Image.new("L", (20 + shade % 7, 10), shade % 256).save(data, "JPEG")
    return data.getvalue()


def put(store: AnswerStore, kind: SearchKind, result: QueryResult, *shades: int, post: str, **changed: Any) -> None:
    shown = ShownSettings(images_per_query=2, **changed)
    pictures = [store.add_picture(jpeg(shade), ".jpg", 20 + shade % 7, 10) for shade in shades]
    store.put(shown_key("serper", kind, result.query, shown), shown_value(result), pictures=pictures, post=post)


async def offline_answers(cache: Path, post: str, kind: SearchKind, queries: list[str]) -> list[Any]:
    """Query by query, as an entry answers one query of a call only."""
    tool = OfflineSearchTool(cache, images_per_query=2)
    ask = tool.search_text if kind is SearchKind.TEXT else tool.search_images
    return [seen(result) for query in queries for result in await ask(post, [query])]


def seen(result: QueryResult) -> Any:
    pictures = [hashlib.sha256(Path(image.path).read_bytes()).hexdigest() for image in result.images]
    sizes = [(image.width, image.height) for image in result.images]
    return result.status if result.status != "failed" else "no_result", result.text, pictures, sizes


async def test_the_release_s_sample_is_imported_as_the_offline_tool_shows_it(shared: Path, tmp_path: Path) -> None:
    sample = shared / "data" / "search_cache_sample"
    with open_store(tmp_path, mode="record") as store:
        counts = import_released(store, sample, "serper", options_of=options_of, images_per_query=2)
        assert (counts.posts, counts.standing) == (6, 0)
        again = import_released(store, sample, "serper", options_of=options_of, images_per_query=2)
        assert (again.answers, again.standing) == (0, counts.answers)
        compared = 0
        for kind in SearchKind:
            for path in sorted((sample / f"{kind}_search").iterdir()):
                post = path.name.removesuffix(f"_{kind}_search.json")
                queries = [row["query"] for row in json.loads(path.read_text())]
                keys = [shown_key("serper", kind, query, SHOWN) for query in queries]
                kept = [store.get(key) for key in keys]
                ours = [
                    seen(shown_result(stored, key, key.query, cached=True))
                    for key, stored in zip(keys, kept, strict=True)
                    if stored is not None
                ]
                assert ours == await offline_answers(sample, post, kind, queries)
                assert [item.key for item in store.asked_by(post) if item.key.kind == kind] == keys
                compared += len(queries)
        assert compared == 24 == counts.answers + counts.shared


async def test_what_is_exported_the_offline_tool_answers_as_the_store_does(tmp_path: Path) -> None:
    with open_store(tmp_path / "store") as store:
        put(store, SearchKind.TEXT, QueryResult("Ada  Lovelace", "success", "a ☃ mathematician \ud800"), post="p1")
        put(store, SearchKind.TEXT, QueryResult("Bob", "no_result"), post="p1")
        put(store, SearchKind.TEXT, QueryResult("Eve", "failed", reason=SearchFailure.TIMEOUT), post="p2")
        put(store, SearchKind.IMAGE, QueryResult("Ada Lovelace", "success"), 1, 2, 3, post="p1")
        put(store, SearchKind.IMAGE, QueryResult("Bob", "success"), 4, 1, post="p2")
        # None of these is part of it: older settings, another provider, hits, nobody's, an odd post's.
        put(store, SearchKind.TEXT, QueryResult("Bob", "success", "longer"), post="", max_chars=9)
        store.put(AnswerKey.of("other", "text", "x", {"shown": 1}), {"status": "success"}, post="p1")
        store.put(AnswerKey.of("serper", "text_hits", "x", {"results": 5}), {"snippets": []}, post="p1")
        put(store, SearchKind.TEXT, QueryResult("z", "success", "z"), post="../../p1")
        counts = export_released(store, tmp_path / "out", "serper")
        assert (counts.posts, counts.answers, counts.pictures, counts.failed) == (2, 5, 5, 1)
        assert (counts.unasked, counts.left_out) == (1, 1)
        for post in ("p1", "p2"):
            for kind in SearchKind:
                kept = [k for k in store.asked_by(post) if k.key.kind == kind and k.key.provider == "serper"]
                ours = [seen(shown_result(item.stored, item.key, "", cached=True)) for item in kept]
                assert ours == await offline_answers(tmp_path / "out", post, kind, [item.key.query for item in kept])
    rows = json.loads((tmp_path / "out" / "text_search" / "p1_text_search.json").read_text())
    assert rows[0]["query"] == "Ada  Lovelace"
    assert rows[1]["result"] == {"summary": "", "raw_snippets": [], "knowledge_graph": None}
    images = json.loads((tmp_path / "out" / "image_search" / "p1_image_search.json").read_text())
    assert images[0]["kg_image_path"] == "images/p1/0_kg.jpg"
    assert images[0]["result"]["images"] == [{"path": "images/p1/0_0.jpg"}, {"path": "images/p1/0_1.jpg"}]


@settings(max_examples=8)
@given(st.dictionaries(st.text(min_size=1, max_size=20).filter(lambda t: normalised(t) != ""), st.text(max_size=30)))
def test_any_words_survive_export_and_import(
    tmp_path_factory: pytest.TempPathFactory, summaries: dict[str, str]
) -> None:
    folder = tmp_path_factory.mktemp("words")
    texts = {normalised(query): text for query, text in summaries.items() if text.strip()}
    with open_store(folder / "one") as one, open_store(folder / "other") as other:
        for query, text in summaries.items():
            if text.strip():
                put(one, SearchKind.TEXT, QueryResult(query, "success", text), post="p1")
        if not texts:
            return
        export_released(one, folder / "out", "serper")
        import_released(other, folder / "out", "serper", options_of=options_of, images_per_query=2)
        assert {item.key.query: item.stored.value["text"] for item in other.answers()} == texts


def test_of_several_settings_the_newest_answer_is_exported(tmp_path: Path) -> None:
    with open_store(tmp_path / "store") as store:
        put(store, SearchKind.TEXT, QueryResult("Bob", "success", "short"), post="p1")
        put(store, SearchKind.TEXT, QueryResult("Bob", "success", "longer"), post="p1", max_chars=9)
        assert export_released(store, tmp_path / "out", "serper").other_settings == 1
    (row,) = json.loads((tmp_path / "out" / "text_search" / "p1_text_search.json").read_text())
    assert row["result"]["summary"] == "longer"


def test_an_export_overwrites_nothing_and_is_whole_or_not_there(tmp_path: Path) -> None:
    with open_store(tmp_path / "store") as store:
        with pytest.raises(SearchCacheError, match="no post has asked 'serper'"):
            export_released(store, tmp_path / "out", "serper")
        put(store, SearchKind.TEXT, QueryResult("Bob", "success", "b"), post="p1")
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.tex").write_text("years of work")
        with pytest.raises(SearchCacheError, match="empty folder"):
            export_released(store, tmp_path / "full", "serper")
        (tmp_path / "empty").mkdir()
        assert export_released(store, tmp_path / "empty", "serper").answers == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full", "store"]


def test_a_released_cache_that_is_broken_or_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "image_search").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(jpeg(1))
    row = {"query": "a", "status": "success", "result": {"images": [{"path": "../secret.jpg"}]}}
    (cache / "image_search" / "p1_image_search.json").write_text(json.dumps([row]))
    with open_store(tmp_path / "store") as store:
        with pytest.raises(SearchCacheError, match="p1_image_search"):
            import_released(store, cache, "serper", options_of=options_of)
        (cache / "image_search" / "p1_image_search.json").rename(cache / "image_search" / "-x_image_search.json")
        with pytest.raises(SearchCacheError, match="img_id"):
            import_released(store, cache, "serper", options_of=options_of)
        with pytest.raises(SearchCacheError, match="no folder text_search"):
            import_released(store, tmp_path, "serper", options_of=options_of)
        assert store.stats().answers == 0
