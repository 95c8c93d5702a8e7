"""The configuration: what is given is what holds, and what cannot be is refused with field, value and a way out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from envs.tools.local_index import INDEX_NAME, SOURCE_NAME
from envs.tools.local_sources import DOCUMENTS
from rewards.format import RELEASED_MAX_TURNS as rewards_max_turns
from sake_ray.config import (
    Config,
    ConfigError,
    RolloutConfig,
    absolute_paths,
    config_or_exit,
    describe_plan,
    load_config,
    section_hash,
)
from sake_ray.config.check import RELEASED_MAX_TURNS
from sake_ray.config.load import FIELDS, preset_names
from sake_ray.config.ready import ENCYCLOPAEDIA, check_ready
from sake_ray.config.render import markdown
from sake_ray.config.sections import AlgorithmConfig
from sake_ray.config.values import Value, read_range, show

PROJECT = Path(__file__).parents[2]


def load(*argv: str, defaults: Mapping[str, Value] | None = None) -> Config:
    return load_config(argv, job="rl_twitter17", defaults=defaults)


def test_command_line_wins_over_job_over_preset_over_default(tmp_path: Path) -> None:
    preset = tmp_path / "own.yaml"
    preset.write_text("rollout: {workers: 2, group_size: 4, max_num_seqs: 5}\n")
    config = load(f"preset={preset}", "rollout.workers=6", defaults={"rollout.workers": 5, "rollout.group_size": 5})
    rollout = config.rollout
    assert (rollout.workers, rollout.group_size, rollout.max_num_seqs) == (6, 5, 5)
    assert rollout.temperature == RolloutConfig().temperature


@pytest.mark.parametrize("preset", preset_names())
def test_every_shipped_preset_is_valid_and_its_own_overrides_rebuild_it(preset: str) -> None:
    config = load(f"preset={preset}")
    overrides = [f"{key}={show(getattr(getattr(config, key.split('.')[0]), key.split('.')[1]))}" for key in FIELDS]
    assert load(f"preset={preset}", *overrides) == config
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()


@pytest.mark.parametrize("preset", ["qwen25vl_3b", "qwen25vl_7b"])
def test_the_real_models_train_with_the_published_hyper_parameters(preset: str) -> None:
    config = load(f"preset={preset}")
    assert (config.rollout.group_size, config.trainer.groups_per_step, config.learner.lr) == (8, 16, 2e-6)
    algorithm = config.algorithm
    assert (algorithm.advantage, algorithm.clip_low, algorithm.clip_high, algorithm.kl_coef) == ("grpo", 0.2, 0.2, 1e-3)
    assert (config.model.dtype, config.rollout.gpus_per_worker, config.learner.gpus_per_rank) == ("bfloat16", 1, 1)
    assert (config.episode.max_turns, config.episode.text_searches, config.episode.image_searches) == (3, 1, 1)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("rollout.wrokers=3", ["rollout.wrokers=3", "rollout.workers"]),
        ("groups_per_step=3", ["groups_per_step=3", "trainer.groups_per_step"]),
        ("rollout=3", ["rollout=3", "rollout.workers"]),
        ("--workers", ["--workers", "key=value", "rollout.workers"]),
        ("preset=mini_fats", ["preset=mini_fats", "preset=mini_fast"]),
        ("rollout.workers=three", ["rollout.workers=three", "whole number"]),
        ("rollout.workers=1.5", ["rollout.workers=1.5", "whole number"]),
        ("learner.lr=nan", ["learner.lr=nan", "finite"]),
        ("learner.gradient_checkpointing=yes", ["true or false"]),
        ("reward.mode=em", ["reward.mode=em", "EM, MultiEM", "nearest: reward.mode=EM"]),
        ("rollout.workers=0", ["rollout.workers=0", "nearest: rollout.workers=1"]),
        ("search.threshold=1.5", ["search.threshold=1.5", "nearest: search.threshold=1"]),
        ("search.provider=offline", ["search.cache", "search.provider=offline", "search.cache=DIR"]),
        ("data.root=sake_rya/presets", ["data.root=sake_rya/presets", "nearest: data.root=sake_ray"]),
        ("model.path=./missing", ["model.path=./missing", "mini"]),
        ("trainer.resume=yes", ["trainer.resume=yes", "trainer.resume=auto"]),
        ("rollout.tensor_parallel=2", ["rollout.tensor_parallel=2", "gpus_per_worker=0"]),
        ("rollout.gpus_per_worker=2", ["rollout.gpus_per_worker=2", "nearest: rollout.gpus_per_worker=1"]),
        ("learner.gpus_per_rank=2", ["learner.gpus_per_rank=2", "learner.ranks"]),
        ("rollout.group_size=1", ["rollout.group_size=1", "no signal", "nearest: rollout.group_size=2"]),
        ("rollout.top_p=0.9", ["rollout.top_p=0.9", "renormalise", "nearest: rollout.top_p=1"]),
        ("rollout.temperature=0.001", ["rollout.temperature=0.001", "nearest: rollout.temperature=0.01"]),
        ("model.dtype=bfloat16", ["model.dtype=bfloat16", "gpus_per_rank=0", "nearest: model.dtype=float32"]),
        ("algorithm.advantage=gae", ["algorithm.advantage=gae", "nearest: algorithm.advantage=grpo"]),
        (
            "trainer.max_staleness=1 algorithm.is_cap=0",
            ["algorithm.is_cap=0", "trainer.max_staleness=1", "nearest: algorithm.is_cap=2"],
        ),
        ("rollout.autoscale=4", ["rollout.autoscale=4", "MIN:MAX", "nearest: rollout.autoscale=4:4"]),
        ("rollout.autoscale=2:4", ["rollout.workers=1", "nearest: rollout.workers=2"]),
        ("serve.ingress=0:2", ["serve.ingress=0:2", "MIN:MAX", "nearest: serve.ingress=1:2"]),
        ("serve.engines=", ["serve.engines=:", "MIN:MAX", "nearest: serve.engines=1:2"]),
        ("serve.searches=3:1", ["serve.searches=3:1", "nearest: serve.searches=1:3"]),
        ("episode.max_turn_tokens=5000", ["episode.max_turn_tokens=5000", "max_tokens=4096"]),
        ("learner.row_tokens=9000", ["learner.row_tokens=9000", "micro_batch_tokens"]),
        ("learner.minibatches=17", ["learner.minibatches=17", "nearest: learner.minibatches=16"]),
        ("data.min_pixels=2000000", ["data.min_pixels=2000000", "max_pixels"]),
        ("tracking.backends=tensorboard,wnadb", ["wnadb", "nearest: tracking.backends=wandb"]),
        ("reward.use_search_count_penalty=true", ["preset=release", "nearest: reward.use_search_count_penalty=false"]),
    ],
)
def test_what_cannot_be_is_refused_with_field_value_and_a_way_out(
    argument: str, says: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    with pytest.raises(ConfigError) as caught:
        load(*argument.split())
    for words in says:
        assert words in str(caught.value)


@given(low=st.integers(1, 9_999), more=st.integers(0, 9_998))
def test_a_range_is_read_as_it_is_written(low: int, more: int) -> None:
    high = min(low + more, 9_999)
    assert read_range("serve.engines", f"{low}:{high}") == (low, high)
    assert RolloutConfig(autoscale=f"{low}:{high}").bounds() == (low, high)
    assert RolloutConfig().bounds() is None


@given(st.text() | st.from_regex(r"\s?-?[0-9]{0,5}:?[0-9]{0,5}\s?") | st.integers(0).map(lambda n: f"{n}:1"))
@example("1:" + 5_000 * "9")
@example("١:٢")
@example("1:2\n")
def test_what_is_no_range_is_refused_with_one_that_would_do(text: str) -> None:
    try:
        low, high = read_range("serve.engines", text)
    except ConfigError as error:
        said, _, instead = str(error).rpartition("; nearest: serve.engines=")
        assert said == f"serve.engines={text}: must be MIN:MAX, whole numbers from 1 to 9999"
        low, high = read_range("serve.engines", instead)
    else:
        assert [int(part) for part in text.split(":")] == [low, high]
    assert 1 <= low <= high <= 9_999


def test_the_released_reward_allows_as_many_turns_as_it_can_score() -> None:
    assert load("reward.preset=release").reward.preset == "release"
    assert load("episode.max_turns=4").episode.max_turns == 4
    with pytest.raises(ConfigError, match=r"episode\.max_turns=4: reward\.preset=release .* nearest: .*max_turns=3"):
        load("reward.preset=release", "episode.max_turns=4")
    assert rewards_max_turns == RELEASED_MAX_TURNS


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rollout: {wrokers: 2}", "rollout.workers"),
        ("rollout: 3", "field: value"),
        ("- 1", "sections"),
        ("rollout: {workers: [1, 2]}", "single value"),
        ("rollout: {workers", "not readable as YAML"),
        ("extends: {self}", "circle"),
    ],
)
def test_a_broken_preset_is_named_with_its_fault(tmp_path: Path, text: str, says: str) -> None:
    preset = tmp_path / "own.yaml"
    preset.write_text(text.replace("{self}", str(preset)))
    with pytest.raises(ConfigError, match=says) as caught:
        load(f"preset={preset}")
    assert str(preset) in str(caught.value)


@given(st.lists(st.one_of(st.text(max_size=40), st.builds("{}={}".format, st.sampled_from(list(FIELDS)), st.text()))))
def test_any_arguments_give_a_config_or_a_config_error(arguments: list[str]) -> None:
    arguments = [text for text in arguments if text not in {"-h", "--help", "--dry-run"}]
    try:
        config = load(*arguments)
    except ConfigError as error:
        assert str(error)
    else:
        assert isinstance(config, Config)


def test_help_lists_every_field_with_value_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        load("--help", "rollout.workers=7")
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "rollout.workers=7" in text
    for key, field in FIELDS.items():
        assert f"{key}=" in text
        assert field.metadata["help"] in text


def test_dry_run_shows_the_actors_and_what_they_take(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        load("preset=qwen25vl_7b", "rollout.workers=12", "--dry-run")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert stopped.value.code == 0
    assert ["rollout", "12", "4", "1"] in rows
    assert ["reserved", "24", "72", "16"] in rows


def test_mini_fits_on_two_cores() -> None:
    plan = describe_plan(load("preset=mini"))
    assert sum(row.count * row.cpus for row in plan) <= 2
    assert sum(row.gpus for row in plan) == 0


def test_the_plan_holds_only_the_pools_a_job_uses() -> None:
    config = load_config([], job="sft_secot")
    assert [row.actor for row in describe_plan(config)] == ["learner"]


def test_the_plan_of_a_service_is_the_most_it_may_grow_to() -> None:
    words = ["serve.ingress=1:3", "serve.engines=2:4", "serve.searches=1:2", "rollout.cpus_per_worker=2"]
    plan = describe_plan(load_config(words, job="serve"))
    assert [(row.actor, row.count, row.cpus) for row in plan[:2]] == [("ingress", 3, 0.0), ("engine", 4, 2.0)]
    both = describe_plan(load_config([*words, "serve.compare=a,b"], job="serve"))
    assert [row.count for row in both] == [3, 8, 4] and [row.count for row in plan] == [3, 4, 2]


def test_a_wrong_setting_ends_a_script_with_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        config_or_exit(["rollout.workers=0"], job="evaluate")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == ("evaluate: rollout.workers=0: must be at least 1; nearest: rollout.workers=1\n")


def test_a_hub_name_is_planned_with_but_not_started_with(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as planned:
        config_or_exit(["preset=qwen25vl_7b", "--dry-run"], job="rl_twitter17")
    assert planned.value.code == 0
    with pytest.raises(SystemExit) as stopped:
        config_or_exit(["preset=qwen25vl_7b"], job="rl_twitter17")
    assert stopped.value.code == 2
    assert "hf download Qwen/Qwen2.5-VL-7B-Instruct --local-dir DIR" in capsys.readouterr().err


def test_a_job_starts_only_where_its_model_and_encyclopaedia_are(tmp_path: Path) -> None:
    check_ready(load())
    given_ = (f"data.root={tmp_path}", f"model.path={tmp_path}")
    with pytest.raises(ConfigError, match=r"model\.path=.*has no config\.json"):
        check_ready(load(*given_))
    (tmp_path / "config.json").touch()
    with pytest.raises(ConfigError, match=r"search\.root=.*search\.provider=offline"):
        check_ready(load(*given_))
    assert set(ENCYCLOPAEDIA) == {INDEX_NAME, SOURCE_NAME}
    (tmp_path / SOURCE_NAME).touch()
    check_ready(load(*given_))
    mine = tmp_path / "mine"
    (mine / DOCUMENTS).mkdir(parents=True)
    own = (f"search.root={mine}", f"model.path={tmp_path}")
    with pytest.raises(ConfigError, match=r"documents or captions"):
        check_ready(load(*own))
    (mine / DOCUMENTS / "a.parquet").touch()
    check_ready(load(*own))


def test_fmnerg_is_not_trained_on_miniworlds_posts_but_its_help_needs_no_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"data\.root=: MiniWorld.*data\.task=fmnerg.*data\.root=DIR"):
        check_ready(load("data.task=fmnerg"))
    (tmp_path / ENCYCLOPAEDIA[1]).touch()
    check_ready(load("data.task=fmnerg", f"data.root={tmp_path}"))
    with pytest.raises(SystemExit):
        config_or_exit(["--help"], job="rl_fmnerg", defaults={"data.task": "fmnerg"})
    assert "data.task=fmnerg" in capsys.readouterr().out


@pytest.mark.integration  # it imports verl
@pytest.mark.parametrize("field", ["advantage", "loss"])
def test_an_estimator_or_a_loss_nobody_registered_stops_the_job_before_it_starts(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"algorithm\.{field}='grop' is not in verl's registry"):
        check_ready(load(f"algorithm.{field}=grop"))


def test_every_kl_estimator_that_may_be_asked_for_is_one_verl_computes() -> None:
    import torch
    from verl.trainer.ppo.core_algos import kl_penalty

    field = next(field for field in dataclasses.fields(AlgorithmConfig) if field.name == "kl_kind")
    for kind in field.metadata["choices"]:
        assert kl_penalty(torch.tensor([-1.0]), torch.tensor([-2.0]), kind).isfinite().all(), kind
    with pytest.raises(ConfigError, match=r"algorithm\.kl_kind"):
        load("algorithm.kl_kind=low_var")


def test_a_tracker_that_is_not_installed_stops_the_job_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tracking\.backends=wandb: wandb is not installed"):
        check_ready(load("tracking.backends=wandb"))


def test_the_hash_is_of_what_was_asked_for_and_not_of_where_it_is_written() -> None:
    base = load()
    assert base.config_hash == load("run.dir=/elsewhere").config_hash
    assert base.config_hash != load("run.seed=1").config_hash
    assert section_hash(load("rollout.top_p=1").rollout) == section_hash(load("rollout.top_p=1.0").rollout)
    assert section_hash(RolloutConfig()) != section_hash(RolloutConfig(temperature=0.5))


def test_paths_are_made_absolute_for_a_job_that_runs_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "posts").mkdir()
    given_ = ["data.root=posts", "run.dir=new", "preset=mini", "model.path=Qwen/Qwen2.5-VL-3B-Instruct", "run.seed=1"]
    assert absolute_paths(given_, tmp_path) == [f"data.root={tmp_path}/posts", f"run.dir={tmp_path}/new", *given_[2:]]


def test_sections_are_immutable_and_check_themselves() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.workers"):
        RolloutConfig(workers=-1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        RolloutConfig().workers = 2  # type: ignore[misc]


def test_the_configuration_page_is_current() -> None:
    page = (PROJECT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == markdown(), "docs/configuration.md is out of date: run `make docs`"
