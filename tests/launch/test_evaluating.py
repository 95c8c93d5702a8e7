"""Evaluating a policy: what `model=` takes, a served model's episodes, and that a cut-off evaluation loses nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch import evaluating_endpoint
from launch.display import RunDisplay
from launch.evaluating import evaluate_model, load_posts, main
from launch.evaluating_endpoint import evaluate_endpoint
from launch.evaluating_options import Options, read_options
from launch.model_source import find_model
from launch.starting import base_model_folder
from launch.words import UsageError
from sake_ray.config.config import Config
from sake_ray.config.load import resolve
from sake_ray.data.problems import DataError
from sake_ray.types import Example
from tests.envs.chat_endpoint import ChatEndpoint, Reply, completion, error_reply, json_reply, serving

WORLD = ("world.train_posts=4", "world.dev_posts=4", "world.test_posts=2", "world.long_tail=8")
NOTHING = "<reason>Nothing.</reason><answer>[]</answer>"


def config_for(folder: Path, *words: str) -> Config:
    return resolve(["preset=mini", *WORLD, *words], job="evaluate", defaults={"run.dir": str(folder)})


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "episodes.jsonl").read_text(encoding="utf-8").splitlines()]


def report(folder: Path) -> dict[str, Any]:
    """The report, without what is of the clock."""
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    found["provenance"].pop("made")
    for part in ("seconds", "generate_s", "search_s"):
        found["cost"].pop(part, None)
    return found


def right_answer(example: Example) -> str:
    """What scores 100: every entity, with its first box (MiniWorld's pictures are shown at their own size)."""
    entities = [
        {"entity": e.text, "type": e.type, "box2d": e.boxes[0].as_list() if e.boxes else []} for e in example.entities
    ]
    return f"<reason>I know.</reason><answer>{json.dumps(entities)}</answer>"


# --- what model= takes -----------------------------------------------------------------------------------


def write_run(folder: Path, *policies: str) -> Path:
    config = config_for(folder, "episode.max_turn_tokens=99", "data.max_examples=3", "rollout.temperature=0.4")
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    for name in policies:
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    return folder


def test_a_runs_policy_comes_with_the_runs_settings_and_the_best_one_first(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "policy", "best_policy")
    (run / "best_policy" / "best.json").write_text(json.dumps({"step": 20, "checkpoint": "step-000020"}))
    source = find_model(str(run))
    assert (source.folder, source.run, source.checkpoint) == (run / "best_policy", str(run), "step-000020")
    assert source.settings["episode.max_turn_tokens"] == 99 and source.settings["rollout.temperature"] == 0.4
    assert "data.max_examples" not in source.settings, "which posts it trained on is not how it is evaluated"
    assert source.settings["search.cache_dir"] == str(tmp_path / "search_cache")
    assert find_model(str(run / "policy")).settings == source.settings
    shutil.copytree(run / "policy", tmp_path / "alone")
    assert not find_model(str(tmp_path / "alone")).settings
    assert find_model("mini").folder == base_model_folder()


def test_what_cannot_be_evaluated_is_told_with_a_way_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "checkpoints" / "step-000010").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"exported no policy yet.*model=.*step-000010"):
        find_model(str(run))
    (tmp_path / "step-000010").mkdir()
    (tmp_path / "step-000010" / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match="without its run around it"):
        find_model(str(tmp_path / "step-000010"))
    with pytest.raises(UsageError, match="neither a model"):
        find_model(str(tmp_path))
    with pytest.raises(UsageError, match="hf download"):
        find_model("Qwen/Qwen2.5-VL-3B-Instruct")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("model=mini",), "output=… is missing"),
        (("output=x",), "give either model="),
        (("output=x", "model=mini", "endpoint=http://h/v1"), "give either model="),
        (("output=x", "endpoint=http://h/v1"), "needs served=NAME"),
        (("output=x", "model=mini", "split=val"), "split=val: must be one of test, dev, train"),
        (("output=x", "model=mini", "samples=-1"), "samples=-1: is out of range"),
        (("output=x", "model=mini", "samples=many"), "must be a number"),
        (("output=x", "model=mini", "tools=no"), "must be true or false"),
        (("output=x", "model=mini", "model.path=y"), "it is model="),
        (("output=x", "model=mini", "retries=2"), "only together with endpoint="),
        (("output=x", "endpoint=http://h/v1", "served=m"), "preset=… is missing"),
    ],
)
def test_words_that_would_not_do_what_they_say_are_refused(
    words: Sequence[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1


def test_settings_are_told_from_words() -> None:
    options, settings = read_options(["model=mini", "output=o", "samples=3", "preset=mini", "rollout.workers=2"])
    assert (options.samples, options.answers, options.tools) == (3, 3, True)
    assert settings == ["preset=mini", "rollout.workers=2"]


# --- a served model --------------------------------------------------------------------------------------


@pytest.fixture
async def endpoint() -> AsyncIterator[ChatEndpoint]:
    async with serving() as running:
        yield running


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the evaluations of this module lie side by side, so that they share one MiniWorld."""
    return tmp_path_factory.mktemp("runs")


async def ask(endpoint: ChatEndpoint, folder: Path, *replies: Reply, words: Sequence[str] = (), **given: Any) -> int:
    endpoint.replies = list(replies)
    endpoint.bodies.clear()
    config = config_for(folder, *words)
    options = Options(
        output=folder, endpoint=endpoint.url, served="scripted", split="dev", requests_per_s=1e6, concurrency=1,
        retries=0,
    )  # fmt: skip
    return await evaluate_endpoint(config, replace(options, **given), display(folder))


def display(folder: Path) -> RunDisplay:
    folder.mkdir(exist_ok=True)
    return RunDisplay(folder, total_steps=0)


def posts_of(folder: Path) -> list[Example]:
    return load_posts(config_for(folder), Options(output=folder, split="dev"))[0]


def say(text: str) -> Reply:
    return json_reply(completion(text))


async def test_right_answers_score_100_and_a_search_is_really_made(endpoint: ChatEndpoint, runs: Path) -> None:
    posts = posts_of(runs / "right")
    name = posts[0].entities[0].text
    search = f'<reason>Who?</reason><text_search>[{{"query": "{name}"}}]</text_search>'
    answers = [say(right_answer(post)) for post in posts]
    assert await ask(endpoint, runs / "right", say(search), *answers, price_in=2.0, price_out=10.0) == 0
    found = report(runs / "right")
    assert found["price"] == pytest.approx((5 * 7 * 2.0 + 5 * 3 * 10.0) / 1e6)
    assert found["posts"] == len(posts)
    assert {found[task]["micro_f1"] for task in ("gmner", "eeg", "mner")} == {100.0}
    assert found["provenance"]["model"] == f"scripted at {endpoint.url}" and found["provenance"]["split"] == "dev"
    first = rows(runs / "right")[0]
    assert name in first["turns"][0]["results"][0]["text"], "the encyclopaedia tells of it"
    assert (first["tokens"], first["sampled_tokens"], first["prompt_tokens"]) == (10, 6, 14)
    assert (runs / "right" / "report.html").stat().st_size > 1000


async def test_what_got_no_answer_is_counted_left_out_and_asked_for_again(endpoint: ChatEndpoint, runs: Path) -> None:
    folder = runs / "failing"
    posts = posts_of(folder)
    good = [say(right_answer(post)) for post in posts]
    assert await ask(endpoint, folder, good[0], error_reply(500), say("no tags at all"), error_reply(500)) == 2
    found = report(folder)
    assert found["unanswered"] == {"posts": 2, "of": 4, "counted_as_empty": False}
    assert found["posts"] == 2 and "2 of 4 posts got no answer" in (folder / "report.md").read_text()

    left_out = found["gmner"]["micro_recall"]
    assert await ask(endpoint, folder, error_reply(500), missing="empty") == 2
    assert len(endpoint.bodies) == 2, "answered posts, malformed ones too, are not asked again"
    found = report(folder)
    assert found["posts"] == 4 and found["unanswered"]["counted_as_empty"]
    assert found["gmner"]["micro_recall"] < left_out

    assert await ask(endpoint, folder, good[1], good[3]) == 0
    assert [row["example"] for row in rows(folder)] == [posts[at].id for at in (0, 2, 1, 3)]
    found = report(folder)
    assert found["unanswered"]["posts"] == 0 and found["posts"] == 4
    assert [row["stop_reason"] for row in rows(folder)] == ["answer", "malformed", "answer", "answer"]


async def test_a_cut_off_evaluation_ends_with_the_same_report(endpoint: ChatEndpoint, runs: Path) -> None:
    folder = runs / "cut"
    posts = posts_of(folder)
    said = [say(right_answer(post) if at % 2 else NOTHING) for at, post in enumerate(posts)]
    assert await ask(endpoint, folder, *said) == 0
    whole, path = report(folder), folder / "episodes.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:50])
    assert await ask(endpoint, folder, *said[2:]) == 0
    assert len(endpoint.bodies) == 2
    assert report(folder) == whole


async def test_a_folder_of_other_settings_or_other_posts_is_refused(endpoint: ChatEndpoint, runs: Path) -> None:
    folder = runs / "other"
    await ask(endpoint, folder, say(NOTHING), max_posts=1)
    with pytest.raises(DataError, match=r"other settings \(episode differ\); choose another output"):
        await ask(endpoint, folder, say(NOTHING), words=("episode.max_turns=2",))
    with pytest.raises(DataError, match=r"\(search, tools differ\)"):
        await ask(endpoint, folder, say(NOTHING), tools=False)
    line = rows(folder)[0]
    (folder / "episodes.jsonl").write_text(json.dumps(line | {"post": "another text"}) + "\n")
    with pytest.raises(DataError, match="has other text, gold or picture"):
        await ask(endpoint, folder, say(NOTHING))
    assert endpoint.bodies == []


async def test_without_tools_one_turn_is_all(endpoint: ChatEndpoint, runs: Path) -> None:
    posts = posts_of(runs / "direct")
    search = say('<reason>Who?</reason><text_search>[{"query": "Ada"}]</text_search>')
    await ask(endpoint, runs / "direct", search, *(say(right_answer(post)) for post in posts[1:]), tools=False)
    assert [row["stop_reason"] for row in rows(runs / "direct")] == ["search_limit", "answer", "answer", "answer"]
    said = endpoint.bodies[0]["messages"][0]["content"]
    assert "text_search" not in "".join(part.get("text", "") for part in said)


async def test_samples_have_seeds_that_do_not_depend_on_the_order(endpoint: ChatEndpoint, runs: Path) -> None:
    await ask(endpoint, runs / "sampled", say(NOTHING), samples=3, max_posts=2)
    found = {(row["example"], row["sample"]): row["seed"] for row in rows(runs / "sampled")}
    assert len(found) == len(set(found.values())) == 6
    assert report(runs / "sampled")["samples"] == 3
    (runs / "sampled" / "episodes.jsonl").unlink()
    await ask(endpoint, runs / "sampled", say(NOTHING), samples=3, max_posts=2, concurrency=2)
    assert {(row["example"], row["sample"]): row["seed"] for row in rows(runs / "sampled")} == found


async def test_an_endpoint_that_answers_nobody_is_not_asked_for_every_post(
    endpoint: ChatEndpoint, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluating_endpoint, "GIVE_UP", 2)
    with pytest.raises(DataError, match=r"none of the last 2 posts got an answer .*status 500"):
        await ask(endpoint, runs / "dead", error_reply(500))
    with pytest.raises(DataError, match="status 404"):
        await ask(endpoint, runs / "dead", error_reply(404))
    assert not (runs / "dead" / "report.json").exists()


async def test_a_released_checkpoint_has_its_own_prompts_and_search_cache(
    endpoint: ChatEndpoint, runs: Path, shared: Path
) -> None:
    words = released(runs / "released", shared)
    query = "Avant Garde Craft Show"
    search = f'<reason>Who?</reason><text_search>[{{"query": "{query}"}}]</text_search>'
    await ask(endpoint, runs / "own", say(search), say(NOTHING), words=words, split="test", max_posts=1)
    assert "OUR OWN WORDS" in json.dumps(endpoint.bodies[0])
    (row,) = rows(runs / "own")
    assert row["example"] == "115220" and row["turns"][0]["results"][0]["query"] == query
    assert "show the gold" in (runs / "own" / "report.md").read_text(), "pictures were drawn from gold"


def released(folder: Path, shared: Path) -> list[str]:
    """The settings of a released checkpoint: posts of the shared data that the sample of the cache tells of."""
    prompts, data, cache = folder / "prompts", folder / "data", shared / "data" / "search_cache_sample"
    shutil.copytree(Path(evaluating_endpoint.__file__).parents[1] / "sake_ray" / "prompts" / "compact", prompts)
    first = prompts / "gmner_instruction.txt"
    first.write_text(f"OUR OWN WORDS\n{first.read_text()}")
    data.mkdir()
    known = {path.name.removesuffix("_text_search.json") for path in (cache / "text_search").iterdir()}
    lines = (shared / "data" / "twitter_gmner" / "test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["img_id"].partition(".")[0] in known]
    kept.sort(key=lambda line: json.loads(line)["img_id"])
    (data / "test.jsonl").write_text("".join(kept), encoding="utf-8")
    (data / "train.jsonl").write_text(lines[0], encoding="utf-8")
    return [
        f"data.root={data}", "data.images=standin", "data.max_pixels=7056", f"prompts.dir={prompts}",
        "search.provider=offline", f"search.cache={cache}",
    ]  # fmt: skip


# --- a model on the rollout pool -------------------------------------------------------------------------


@pytest.mark.integration
@pytest.mark.slow
async def test_the_mini_model_goes_on_where_it_was_cut_off_and_ends_with_the_same_report(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One real pool serves all evaluations here: starting its engine takes most of the time."""
    from launch import pools

    config = config_for(tmp_path / "mini", "world.dev_posts=6")
    options = Options(output=tmp_path / "mini", model="mini", split="dev")
    source = find_model("mini")
    posts, data = load_posts(config, options)
    async with (
        pools.search_pool(config, data.root) as search,
        pools.rollout_pool(pools.worker_settings(config, source.folder), search, 1) as pool,
    ):
        opened: list[str] = []

        def lend(name: str, what: Any) -> None:
            @asynccontextmanager
            async def opening(*settings: Any) -> AsyncIterator[Any]:
                opened.append(name)
                yield what

            monkeypatch.setattr(pools, name, opening)

        async def evaluate(**given: Any) -> Path:
            changed = replace(options, **given)
            mine = replace(config, run=replace(config.run, dir=str(changed.output)))
            return await evaluate_model(mine, changed, source, display(changed.output))

        lend("search_pool", search)
        lend("rollout_pool", pool)
        folder = await evaluate()
        whole, path = report(folder), folder / "episodes.jsonl"
        assert whole["posts"] == 6 and whole["provenance"]["model"].startswith("mini (")
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:3]) + lines[3][:50])
        await evaluate()
        assert path.read_bytes().startswith(b"".join(lines[:3])), "nothing is played twice"
        assert sorted(row["example"] for row in rows(folder)) == sorted(post.id for post in posts)
        assert report(folder) == whole
        await evaluate()
        assert opened.count("rollout_pool") == 2, "with nothing left to play no engine is started"
        sampled = await evaluate(output=tmp_path / "sampled", samples=2, max_posts=2)
        assert len({row["seed"] for row in rows(sampled)}) == len(rows(sampled)) == 4


@pytest.mark.slow
@pytest.mark.integration
async def test_a_model_plays_with_a_released_checkpoints_prompts_and_search_cache(
    local_ray: None, tmp_path: Path, shared: Path
) -> None:
    """The mini model has not learnt to search: what is shown is that real posts go the whole way."""
    words = released(tmp_path / "released", shared)
    config = config_for(tmp_path / "out", *words)
    options = Options(output=tmp_path / "out", model="mini", protocol="release", max_posts=3)
    await evaluate_model(config, options, find_model("mini"), display(options.output))
    found = report(options.output)
    assert found["posts"] == 3 and found["protocol"] == "release" and found["provenance"]["split"] == "test"
    assert [row["stop_reason"] for row in rows(options.output)]
