"""One learner rank: log-probs, optimiser steps and state of a policy sharded over all ranks with FSDP2.

Knows nothing of Ray: a plain class that needs only an initialised `torch.distributed` group (gloo on a
CPU, NCCL on GPUs). Always holds: every public method but the properties is a collective, called by all
ranks in one order; on a CPU equal steps give equal bits; ranks do the same number of forward and backward
passes, the short ones on dummies; parameters are float32, and a step is normalised by the trained tokens of
all ranks. With one minibatch
the data is as old as the policy, so the old log-probs are the current ones, detached (the clipped ratio
is exactly 1 and only its gradient matters); with more, they are computed before the first step.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

from actors import learner_state
from actors.learner_batches import BatchBuilder, ImageLoader, MicroBatch, Plan
from actors.packed_model import PackedModel, load_packed_model, shard
from sake_ray.algorithms.loss import GlobalCounts, LossInputs, LossOutputs, LossSettings, make_policy_loss
from sake_ray.config.sections import AlgorithmConfig, LearnerConfig
from sake_ray.data.collate import FloatArray, TrainSample
from sake_ray.types import ImageRef

Metrics = dict[str, float]
LossOf = Callable[[MicroBatch, torch.Tensor], LossOutputs]


@dataclasses.dataclass(frozen=True)
class LearnerSettings:
    """What a learner needs to know.

    Attributes:
        model: Hugging Face folder to start from; also the frozen reference unless `reference` is given.
        learner, algorithm: the configuration's sections.
        dtype: what a GPU computes in; parameters stay float32.
        min_pixels, max_pixels: how images are sized before the model's own processor sees them.
        temperature: the one tokens are sampled at; log-probs are of the tempered distribution.
        reference: Hugging Face folder of the reference policy of the KL, used when kl_coef > 0.
        device: "cpu" or "cuda".
    """

    model: Path
    learner: LearnerConfig
    algorithm: AlgorithmConfig
    dtype: str = "float32"
    min_pixels: int = 512 * 512
    max_pixels: int = 672 * 672 * 2
    temperature: float = 1.0
    reference: Path | None = None
    device: str = "cpu"

    @property
    def loss(self) -> LossSettings:
        """The settings of the policy loss."""
        a = self.algorithm
        return LossSettings(a.loss, a.clip_low, a.clip_high, a.clip_c, a.kl_coef, a.kl_kind, a.is_cap, a.is_tolerance)


class Learner:
    """The policy on one rank; see the module's docstring for what callers must respect."""

    def __init__(self, settings: LearnerSettings, *, load_image: ImageLoader | None = None) -> None:
        """Load and shard the policy, and the reference when the KL is on.

        Args:
            settings: see `LearnerSettings`.
            load_image: gives the picture the model is shown; by default `sake_ray.data.images`'.

        Raises:
            RuntimeError: no process group.
            FileNotFoundError: no model in the folder.
        """
        if not dist.is_initialized():
            raise RuntimeError("a Learner needs a process group; call start_process_group first")
        from torch.distributed.device_mesh import init_device_mesh

        if settings.device == "cpu":
            _add_up_in_one_order()
        self.settings = settings
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.step = 0
        self._mesh = init_device_mesh(settings.device, (self.ranks,), mesh_dim_names=("ranks",))
        self.model = self._load(settings.model, trainable=True)
        self.reference: PackedModel | None = None
        if settings.algorithm.kl_coef > 0:
            self.reference = self._load(settings.reference or settings.model, trainable=False)
        self.optimizer = torch.optim.AdamW(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=settings.learner.lr,
            weight_decay=settings.learner.weight_decay,
        )
        self._batches = self._make_batches(load_image or self._default_image)

    def __repr__(self) -> str:
        """Rank, ranks and step, for logs and the dashboard."""
        return f"Learner(rank {self.rank} of {self.ranks}, step {self.step})"

    # --- what the trainer calls ---------------------------------------------------------------------

    def log_probs(self, samples: Sequence[TrainSample], *, reference: bool = False) -> list[FloatArray]:
        """Log-probs of each sample's trained tokens, in order, under the policy or the reference.

        Raises:
            ValueError: `reference` without one (kl_coef is 0).
        """
        model = self.reference if reference else self.model
        if model is None:
            raise ValueError("there is no reference policy: algorithm.kl_coef is 0")
        found: dict[int, FloatArray] = {}
        with self._batches.session(), torch.no_grad():
            for rows in self._plan(samples):
                batch = self._build(samples, rows)
                values, _ = model(**batch.inputs)
                found |= {index: part.cpu().numpy() for index, part in batch.split(values).items()}
        # FSDP leaves its root unsharded after a forward without a backward; state is read from the shards.
        cast("FSDPModule", model).reshard()
        return [found[index] for index in range(len(samples))]

    def update(self, samples: Sequence[TrainSample]) -> Metrics:
        """Train on this rank's share of a step: one optimiser step a minibatch. Returns `train/…` metrics.

        A step that lost groups may have too few samples for `learner.minibatches`; it then takes fewer.

        Raises:
            ValueError: no rank has a sample.
            FloatingPointError: a gradient is not finite; nothing was changed by that minibatch.
        """
        started = time.perf_counter()
        count = max(1, min(self.settings.learner.minibatches, self._largest_share(samples)))
        parts = [list(samples[i::count]) for i in range(count)]
        collected = []
        with self._batches.session():
            olds = [self.log_probs(part) if len(parts) > 1 else None for part in parts]
            for part, old in zip(parts, olds, strict=True):
                collected.append(self.policy_step(part, old))
        return _timed(collected, started)

    def policy_step(self, samples: Sequence[TrainSample], old: Sequence[FloatArray] | None = None) -> Metrics:
        """One optimiser step of the policy loss; `old` log-probs default to the current ones."""
        self.accumulate_policy(samples, old)
        return self.apply_gradients()

    def sft_step(self, samples: Sequence[TrainSample]) -> Metrics:
        """One supervised optimiser step: cross-entropy of the tokens with loss mask 1, mean over all ranks."""
        started = time.perf_counter()
        counts = self._counts(samples)

        def mean_cross_entropy(batch: MicroBatch, log_probs: torch.Tensor) -> LossOutputs:
            loss = _cross_entropy(batch, log_probs) / counts.tokens * counts.ranks
            return LossOutputs(loss, {"loss": loss.detach()})

        with self._batches.session():
            self._accumulate(samples, mean_cross_entropy, counts)
        return _timed([self.apply_gradients()], started)

    def sft_loss(self, samples: Sequence[TrainSample]) -> float:
        """The loss `sft_step` would report on these samples; nothing is trained.

        Images are held for one micro-batch at a time, so that any number of samples can be measured.

        Raises:
            ValueError: no rank has a sample.
        """
        counts = self._counts(samples)
        total = torch.zeros((), dtype=torch.float64, device=self.settings.device)
        for rows in self._plan(samples):
            with self._batches.session(), torch.no_grad():
                batch = self._build(samples, rows)
                total += _cross_entropy(batch, self.model(**batch.inputs)[0]).double()
        # As after `log_probs`: state is read from the shards.
        cast("FSDPModule", self.model).reshard()
        dist.all_reduce(total)
        return float(total) / counts.tokens

    def full_params(self) -> dict[str, torch.Tensor]:
        """Hugging Face name → whole float32 parameter on the CPU (rank 0; empty elsewhere)."""
        return learner_state.full_params(self.model)

    def save(self, folder: Path) -> None:
        """Write parameters, optimiser state and step; any number of ranks can load them."""
        learner_state.save(folder, self.model, self.optimizer, self.step)

    def load(self, folder: Path) -> None:
        """Load what `save` wrote. The reference stays what it was."""
        self.step = learner_state.load(folder, self.model, self.optimizer)

    def export(self, folder: Path, dtype: str = "float32") -> None:
        """Write a Hugging Face folder that transformers and vLLM load."""
        learner_state.export(folder, self.model, self.settings.model, dtype)

    # --- one optimiser step, in two halves ----------------------------------------------------------

    def accumulate_policy(self, samples: Sequence[TrainSample], old: Sequence[FloatArray] | None = None) -> None:
        """Clear the gradients and add up those of the policy loss."""
        counts = self._counts(samples)
        loss_of = make_policy_loss(self.settings.loss, counts)

        def policy_loss(batch: MicroBatch, log_probs: torch.Tensor) -> LossOutputs:
            reference = None
            if self.reference is not None:
                with torch.no_grad():
                    reference = batch.padded(self.reference(**batch.inputs)[0])
            current = batch.padded(log_probs)
            return loss_of(
                LossInputs(
                    log_prob=current,
                    old=current.detach() if old is None else self._old(batch, old),
                    engine=batch.engine,
                    advantages=batch.advantages,
                    mask=batch.mask,
                    reference=reference,
                )
            )

        with self._batches.session():
            self._accumulate(samples, policy_loss, counts)

    def apply_gradients(self) -> Metrics:
        """Clip the gradients, step, and give the metrics of what was accumulated.

        Raises:
            FloatingPointError: the gradient is not finite; parameters are unchanged.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.learner.max_grad_norm)
        norm_value = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if not np.isfinite(norm_value):
            self.optimizer.zero_grad()
            raise FloatingPointError(
                f"the gradient norm is {norm_value} at optimiser step {self.step}; nothing was updated "
                f"(loss {self._metrics.get('train/loss')}, largest log-prob mismatch "
                f"{self._metrics.get('train/mismatch_max')}). Look at the step's trajectories, then lower learner.lr"
            )
        lr = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return {**self._metrics, "train/grad_norm": norm_value, "train/lr": lr}

    def _accumulate(self, samples: Sequence[TrainSample], loss_of: LossOf, counts: GlobalCounts) -> None:
        self.optimizer.zero_grad()
        sums: dict[str, torch.Tensor] = {}
        largest: dict[str, torch.Tensor] = {}
        for rows in self._plan(samples):
            batch = self._build(samples, rows)
            log_probs, entropy = self.model(**batch.inputs)
            outputs = loss_of(batch, log_probs)
            outputs.loss.backward()
            found = {**outputs.sums, "entropy": (batch.padded(entropy) * batch.mask).sum()}
            for name, value in found.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
            for name, value in outputs.largest.items():
                largest[name] = torch.maximum(largest.get(name, value), value)
        self._metrics = self._reduced(sums, largest, counts)

    def _reduced(
        self, sums: dict[str, torch.Tensor], largest: dict[str, torch.Tensor], counts: GlobalCounts
    ) -> Metrics:
        """Metrics over all ranks: sums become means over tokens. All ranks have the same names."""
        names, peaks = sorted(sums), sorted(largest)
        totals = torch.stack([sums[name].double() for name in names])
        dist.all_reduce(totals)
        metrics = {f"train/{name}": float(v) / counts.tokens for name, v in zip(names, totals, strict=True)}
        if "train/is_weight_squared" in metrics:
            # Of n weighted tokens, as many count as (sum w)^2 / sum w^2 equally weighted ones (Kish).
            metrics["train/is_ess"] = metrics["train/is_weight"] ** 2 / max(
                metrics.pop("train/is_weight_squared"), 1e-12
            )
        # The loss is already divided by the tokens, and multiplied by the ranks.
        metrics["train/loss"] = metrics["train/loss"] * counts.tokens / counts.ranks
        if peaks:
            tops = torch.stack([largest[name].double() for name in peaks])
            dist.all_reduce(tops, op=dist.ReduceOp.MAX)
            metrics |= {f"train/{name}": float(v) for name, v in zip(peaks, tops, strict=True)}
        return {**metrics, "train/tokens": float(counts.tokens)}

    # --- parts ----------------------------------------------------------------------------------------

    def _plan(self, samples: Sequence[TrainSample]) -> Plan:
        """This rank's micro-batches, with empty ones at the end up to the longest rank's number."""
        plan = self._batches.plan(samples)
        longest = torch.tensor(len(plan), device=self.settings.device)
        dist.all_reduce(longest, op=dist.ReduceOp.MAX)
        return plan + [[] for _ in range(int(longest) - len(plan))]

    def _build(self, samples: Sequence[TrainSample], rows: list[list[int]]) -> MicroBatch:
        return self._batches.build(samples, rows) if rows else self._batches.dummy()

    def _old(self, batch: MicroBatch, old: Sequence[FloatArray]) -> torch.Tensor:
        values = np.concatenate([old[index] for index in batch.samples] or [np.zeros(1, dtype=np.float32)])
        return batch.padded(torch.from_numpy(values).to(self.settings.device))

    def _largest_share(self, samples: Sequence[TrainSample]) -> int:
        """The most samples any rank has."""
        most = torch.tensor(len(samples), dtype=torch.int64, device=self.settings.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return int(most.item())

    def _counts(self, samples: Sequence[TrainSample]) -> GlobalCounts:
        local = [sum(sample.trained_tokens for sample in samples), len(samples)]
        counts = torch.tensor(local, dtype=torch.int64, device=self.settings.device)
        dist.all_reduce(counts)
        tokens, sequences = counts.tolist()
        if tokens < 1:
            raise ValueError(
                f"no rank has anything to train on ({sequences} samples in all); check what was filtered out"
            )
        return GlobalCounts(tokens, sequences, self.ranks)

    def _learning_rate(self) -> float:
        """Linear warm-up, then constant or falling linearly to 0; a function of the step alone: no state to keep."""
        settings = self.settings.learner
        rise = min(1.0, (self.step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
        fall = max(0.0, 1.0 - self.step / settings.decay_steps) if settings.decay_steps else 1.0
        return settings.lr * min(rise, fall)

    def _load(self, folder: Path, *, trainable: bool) -> PackedModel:
        settings = self.settings
        model = load_packed_model(
            Path(folder),
            logprob_chunk=settings.learner.logprob_chunk,
            temperature=settings.temperature,
            gradient_checkpointing=settings.learner.gradient_checkpointing,
            trainable=trainable,
            frozen=settings.learner.frozen,
        )
        return shard(model, self._mesh, settings.dtype, settings.device)

    def _make_batches(self, load_image: ImageLoader) -> BatchBuilder:
        from transformers import AutoImageProcessor

        return BatchBuilder(
            image_processor=AutoImageProcessor.from_pretrained(self.settings.model),
            image_token_id=self.model.hf.config.image_token_id,
            load_image=load_image,
            row_tokens=self.settings.learner.row_tokens,
            micro_batch_tokens=self.settings.learner.micro_batch_tokens,
            device=self.settings.device,
        )

    def _default_image(self, ref: ImageRef) -> Any:
        from sake_ray.data.images import processed_image

        return processed_image(ref, self.settings.min_pixels, self.settings.max_pixels)


def start_process_group(
    rank: int, ranks: int, address: str, port: int, *, device: str = "cpu", timeout_s: float = 900.0
) -> None:
    """Join the learners' process group (gloo on a CPU, NCCL on GPUs), meeting at rank 0's address."""
    import datetime

    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend,
        init_method=f"tcp://{address}:{port}",
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=timeout_s),
    )


def _add_up_in_one_order() -> None:
    """Have torch's threads sum gradients in the same order every time: a resumed run ends with the same bits.

    A setting of the process, which is the learner's own. Kernels of a GPU are let be: some have no such order.
    """
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # that finds errors, at the cost of time


def _cross_entropy(batch: MicroBatch, log_probs: torch.Tensor) -> torch.Tensor:
    """The summed cross-entropy of a micro-batch's trained tokens."""
    return -(batch.padded(log_probs) * batch.mask).sum()


def _timed(steps: list[Metrics], started: float) -> Metrics:
    """The mean over optimiser steps (tokens: their sum; peaks: the largest), with the time they took."""
    seconds = time.perf_counter() - started
    merged = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
    merged |= {name: max(step[name] for step in steps) for name in steps[0] if name.endswith("_max")}
    merged["train/tokens"] = sum(step["train/tokens"] for step in steps)
    merged["train/tokens_per_s"] = merged["train/tokens"] / seconds
    return merged
