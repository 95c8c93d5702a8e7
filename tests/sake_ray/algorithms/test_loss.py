"""The loss: a hand-written one, independent of how work is split, and masked entries that add nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sake_ray.algorithms.loss import GlobalCounts, LossInputs, LossSettings, make_policy_loss

SETTINGS = LossSettings(clip_low=0.2, clip_high=0.28, clip_c=3.0, kl_coef=0.1, is_cap=1.05)


def made_up(rows: int = 6, columns: int = 9, seed: int = 0) -> LossInputs:
    torch.manual_seed(seed)
    base = -3 * torch.rand(rows, columns)
    mask = (torch.arange(columns) < torch.randint(1, columns + 1, (rows, 1))).float()
    return LossInputs(
        log_prob=(base + 0.3 * torch.randn(rows, columns)).requires_grad_(),
        old=base,
        engine=base + 0.1 * torch.randn(rows, columns),
        reference=base + 0.2 * torch.randn(rows, columns),
        advantages=(3 * torch.randn(rows, 1)).expand(rows, columns),
        mask=mask,
    )


def part(inputs: LossInputs, rows: slice) -> LossInputs:
    fields = {f.name: getattr(inputs, f.name)[rows] for f in dataclasses.fields(inputs)}
    return LossInputs(**fields)


def test_it_is_the_clipped_weighted_objective_plus_kl() -> None:
    x = made_up()
    tokens = int(x.mask.sum())
    outputs = make_policy_loss(SETTINGS, GlobalCounts(tokens, 6, 1))(x)
    total = 0.0
    capped = 0
    for i in range(6):
        for t in range(9):
            if not x.mask[i, t]:
                continue
            now, old, engine, other = (float(v[i, t].detach()) for v in (x.log_prob, x.old, x.engine, x.reference))  # type: ignore[index]
            advantage = float(x.advantages[i, t])
            ratio = torch.tensor(now - old).exp().item()
            loss = max(-advantage * ratio, -advantage * min(max(ratio, 0.8), 1.28))
            if advantage < 0:
                loss = min(loss, -advantage * 3.0)
            weight = torch.tensor(old - engine).exp().item()
            capped += weight >= 1.05
            kl = torch.tensor(other - now).exp().item() - (other - now) - 1
            total += loss * min(weight, 1.05) + 0.1 * kl
    assert float(outputs.loss.detach()) == pytest.approx(total / tokens, rel=1e-5)
    assert float(outputs.sums["is_capped"]) == capped > 0


def test_rounding_differences_weigh_nothing_so_that_equal_tokens_train_equally() -> None:
    x = made_up()
    settings, counts = dataclasses.replace(SETTINGS, is_tolerance=1e-4), GlobalCounts(int(x.mask.sum()), 6, 1)
    losses, gradients = [], []
    for noise in (0.0, 3e-6, -9e-5):
        near = dataclasses.replace(x, engine=x.old + noise, log_prob=x.log_prob.detach().requires_grad_())
        outputs = make_policy_loss(settings, counts)(near)
        outputs.loss.backward()
        losses.append(outputs.loss.detach())
        gradients.append(near.log_prob.grad)
    assert losses[0] == losses[1] == losses[2]
    assert torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[0], gradients[2])  # type: ignore[arg-type]
    exact = make_policy_loss(SETTINGS, counts)(dataclasses.replace(x, engine=x.old - 9e-5))
    assert exact.loss.detach() != losses[0]


def test_what_is_said_of_engine_and_learner_is_counted_by_hand() -> None:
    old = torch.tensor([[-1.0, -2.0, -3.0]])
    engine = torch.tensor([[-1.0, -2.5, -9.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    x = LossInputs(old.clone().requires_grad_(), old, engine, torch.ones(1, 3), mask)
    sums = make_policy_loss(LossSettings(is_cap=1.5), GlobalCounts(2, 1, 1))(x).sums
    half = torch.tensor(0.5).exp().item()  # 1.65, capped at 1.5
    assert float(sums["is_weight"]) == pytest.approx(1.0 + 1.5)
    assert float(sums["is_weight_squared"]) == pytest.approx(1.0 + 2.25)
    assert float(sums["is_capped"]) == 1.0
    assert float(sums["engine_kl"]) == pytest.approx(half - 1 - 0.5)
    assert float(sums["mismatch_mean"]) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["vanilla", "gspo"])
def test_micro_batches_and_ranks_add_up_to_the_whole(name: str) -> None:
    x = made_up()
    tokens = int(x.mask.sum())
    settings = dataclasses.replace(SETTINGS, name=name)
    whole = make_policy_loss(settings, GlobalCounts(tokens, 6, 1))(x).loss
    # Two ranks, the second with two micro-batches; training averages gradients over ranks.
    on_rank = make_policy_loss(settings, GlobalCounts(tokens, 6, 2))
    split = sum(on_rank(part(x, rows)).loss for rows in (slice(0, 1), slice(1, 4), slice(4, 6))) / 2
    assert float(split.detach()) == pytest.approx(float(whole.detach()), rel=1e-5)


def test_masked_entries_have_no_gradient_and_an_empty_batch_is_refused() -> None:
    x = made_up()
    make_policy_loss(SETTINGS, GlobalCounts(20, 6, 1))(x).loss.backward()
    assert x.log_prob.grad is not None
    assert (x.log_prob.grad[x.mask == 0] == 0).all()
    with pytest.raises(ValueError, match="empty batch"):
        make_policy_loss(SETTINGS, GlobalCounts(0, 0, 1))
    with pytest.raises(ValueError, match="not in verl's registry"):
        make_policy_loss(LossSettings(name="vanila"), GlobalCounts(1, 1, 1))
