"""The training loss of one micro-batch: verl's policy loss, the KL to the reference and their metrics.

Knows nothing of models, ranks' communication or trajectories: tensors in, a scalar and sums out. Always
holds: the loss is divided by the global number of trained tokens and multiplied by the number of ranks
(data-parallel training averages gradients over ranks), so micro-batches and ranks can be added in any
split; a masked entry adds exactly nothing. torch and verl are imported on the first call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LARGEST_LOG_RATIO = 20.0
DEFAULT_LOSS = "vanilla"


@dataclass(frozen=True, slots=True)
class LossSettings:
    """What the loss is made of; see `algorithm.*` in the configuration."""

    name: str = DEFAULT_LOSS
    clip_low: float = 0.2
    clip_high: float = 0.2
    clip_c: float = 3.0
    kl_coef: float = 0.0
    kl_kind: str = "low_var_kl"
    is_cap: float = 0.0
    is_tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class LossInputs:
    """Tensors of one micro-batch, all (S, T): S trajectories, T the most trained tokens of any.

    Attributes:
        log_prob: of the sampled tokens under the policy in training; carries the gradient.
        old: under the policy at the start of the step, detached.
        engine: as the rollout engine reported them.
        reference: under the frozen reference; None without KL.
        advantages: the trajectory's advantage on each of its tokens.
        mask: 1.0 where a token was sampled.
    """

    log_prob: torch.Tensor
    old: torch.Tensor
    engine: torch.Tensor
    advantages: torch.Tensor
    mask: torch.Tensor
    reference: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class LossOutputs:
    """The scalar to call `backward` on, and sums over the micro-batch's trained tokens for metrics."""

    loss: torch.Tensor
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    largest: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GlobalCounts:
    """What a step is normalised by: trained tokens and sequences over all ranks and micro-batches."""

    tokens: int
    sequences: int
    ranks: int


def check_loss(name: str) -> None:
    """Refuse a policy loss that nobody registered.

    Raises:
        ValueError: verl's registry does not have it.
    """
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY

    if name not in POLICY_LOSS_REGISTRY:
        raise ValueError(f"algorithm.loss={name!r} is not in verl's registry; it has {sorted(POLICY_LOSS_REGISTRY)}")


def make_policy_loss(settings: LossSettings, counts: GlobalCounts) -> Callable[[LossInputs], LossOutputs]:
    """The loss function of one optimiser step.

    L = sum(policy loss x importance weight + kl_coef x KL) / tokens x ranks. The importance weight is
    min(exp(old - engine), is_cap), detached: it corrects for the engine's numerics and for tokens an
    older policy sampled (truncated importance sampling, Yao et al. 2025). Where the two differ by no more than
    is_tolerance it is exactly 1: an engine's log-probs change in their last bits with the requests that happen to be
    computed together, and two runs that sampled the same tokens must train the same.

    Raises:
        ValueError: no trained tokens, or a loss verl does not know.
    """
    if counts.tokens < 1:
        raise ValueError("there is no trained token on any rank; a step on an empty batch would divide by zero")
    from verl.trainer.ppo.core_algos import agg_loss, get_policy_loss_fn, kl_penalty

    check_loss(settings.name)
    policy_loss = get_policy_loss_fn(settings.name)
    info = {"dp_size": counts.ranks, "batch_num_tokens": counts.tokens, "global_batch_size": counts.sequences}
    config = _verl_config(settings, info)

    def compute(inputs: LossInputs) -> LossOutputs:
        weights = importance_weights(inputs, settings.is_cap, settings.is_tolerance) if settings.is_cap > 0 else None
        loss, verl_metrics = policy_loss(
            old_log_prob=inputs.old,
            log_prob=inputs.log_prob,
            advantages=inputs.advantages,
            response_mask=inputs.mask,
            loss_agg_mode="token-mean",
            config=config,
            rollout_is_weights=weights,
        )
        kl_sum = loss.new_zeros(())
        if inputs.reference is not None:
            kl = kl_penalty(inputs.log_prob, inputs.reference, settings.kl_kind)
            loss = loss + settings.kl_coef * agg_loss(kl, inputs.mask, "token-mean", **info)
            kl_sum = (kl.detach() * inputs.mask).sum()
        return _with_metrics(loss, inputs, kl_sum, verl_metrics, weights, settings.is_cap)

    return compute


def importance_weights(inputs: LossInputs, cap: float, tolerance: float = 0.0) -> torch.Tensor:
    """min(exp(old - engine), cap) per token, detached, (S, T); exactly 1 where they differ by at most `tolerance`."""
    log_ratio = (inputs.old - inputs.engine).detach().clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    log_ratio = log_ratio.where(log_ratio.abs() > tolerance, log_ratio.new_zeros(()))
    return log_ratio.exp().clamp(max=cap)


def _with_metrics(
    loss: torch.Tensor,
    inputs: LossInputs,
    kl_sum: torch.Tensor,
    verl_metrics: dict[str, Any],
    weights: torch.Tensor | None,
    cap: float,
) -> LossOutputs:
    mask = inputs.mask
    tokens = mask.sum()
    difference = (inputs.old - inputs.engine).detach().clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    mismatch = (inputs.old - inputs.engine).detach().abs() * mask
    sums = {
        "loss": loss.detach(),
        "kl": kl_sum,
        # verl gives the mean over this micro-batch's tokens; a sum can be added up over micro-batches.
        "clip_fraction": tokens * float(verl_metrics.get("actor/pg_clipfrac", 0.0)),
        "mismatch_mean": mismatch.sum(),
        # KL(engine || learner) by the sampled tokens: r - 1 - log r with r = learner/engine, which is never negative
        # (Schulman 2020, "Approximating KL divergence", k3).
        "engine_kl": ((difference.exp() - 1 - difference) * mask).sum(),
    }
    if weights is not None:
        sums["is_weight"] = (weights * mask).sum()
        sums["is_capped"] = ((weights >= cap) * mask).sum()
        sums["is_weight_squared"] = (weights.square() * mask).sum()
    return LossOutputs(loss, sums, {"mismatch_max": mismatch.max()})


def _verl_config(settings: LossSettings, info: dict[str, Any]) -> Any:
    """The actor config verl's losses read their clip ranges and global counts from."""
    from verl.workers.config import ActorConfig, PolicyLossConfig

    return ActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        use_dynamic_bsz=True,
        clip_ratio=settings.clip_low,
        clip_ratio_low=settings.clip_low,
        clip_ratio_high=settings.clip_high,
        clip_ratio_c=settings.clip_c,
        policy_loss=PolicyLossConfig(loss_mode=settings.name),
        global_batch_info=dict(info),
    )
