"""What makes a run the run it is: everything but what is named as free, so that a new setting counts by itself."""

from __future__ import annotations

from sake_ray.config.identity import FREE, differences, identity
from sake_ray.config.load import FIELDS, resolve


def test_every_setting_belongs_to_it_that_is_not_named_as_free() -> None:
    assert set(FIELDS) > FREE, "a free setting that does not exist"
    assert set(identity(resolve([], job="one"))) == set(FIELDS) - FREE


def test_differences_name_field_and_both_values() -> None:
    one = identity(resolve(["run.seed=3"], job="one"))
    assert (
        differences(one, identity(resolve(["run.seed=3", "run.dir=elsewhere", "rollout.workers=2"], job="two"))) == []
    )
    other = identity(
        resolve(["learner.gradient_checkpointing=true", "prompts.dir=docs", "learner.frozen=vision"], job="two")
    )
    assert differences(one, other) == [
        "run.seed=3 (now 0)",
        "prompts.dir=(empty) (now docs)",
        "learner.frozen=none (now vision)",
    ]


def test_a_setting_that_one_of_two_versions_does_not_have_is_a_difference() -> None:
    assert differences({"a.old": 1, "a.same": True}, {"a.same": True, "a.new": ""}) == [
        "a.old=1 (now (no such setting))",
        "a.new=(no such setting) (now (empty))",
    ]
