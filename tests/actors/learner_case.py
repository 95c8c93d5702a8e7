"""What the learner tests share: made-up multi-turn samples, a hand-written GRPO gradient, and a run on n ranks.

The reference uses plain transformers on one sequence at a time, whole logits and transformers' own rotary
positions: nothing of the learner's packing, chunking, sharding or loss code.
"""

from __future__ import annotations

import dataclasses
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from actors.learner import Learner, LearnerSettings, start_process_group
from sake_ray.config.sections import AlgorithmConfig, LearnerConfig
from sake_ray.data.collate import TrainSample, balanced_shards
from sake_ray.types import ImageRef

# Where the tiny tokenizer has <|vision_start|>, <|vision_end|>, <|vision_pad|>, <|image_pad|> and <|video_pad|>.
BANNED = [3, 4, 5, 6, 7]

ALGORITHM = AlgorithmConfig(clip_low=0.2, clip_high=0.28, clip_c=3.0, kl_coef=0.05, is_cap=1.1)
LEARNER = LearnerConfig(lr=1e-3, weight_decay=0.01, row_tokens=160, micro_batch_tokens=320, logprob_chunk=17)


def picture(ref: ImageRef) -> Image.Image:
    """The same noise for the same name."""
    generator = np.random.default_rng(sum(ref.path.encode()))
    return Image.fromarray(generator.integers(0, 255, (ref.height, ref.width, 3), dtype=np.uint8))


def make_samples(model: Path, count: int, *, seed: int = 0, images: bool = True) -> list[TrainSample]:
    """Episodes of 2-3 turns: prompt (image), completion, observation (image or text), completion, ..."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    start, end = (tokenizer.convert_tokens_to_ids(f"<|vision_{side}|>") for side in ("start", "end"))
    random = np.random.default_rng(seed)
    sizes = ((112, 84), (56, 56), (84, 140))
    samples = []
    for number in range(count):
        ids: list[int] = []
        mask: list[bool] = []
        refs: list[ImageRef] = []
        for _ in range(int(random.integers(2, 4))):
            context = random.integers(10, len(tokenizer), int(random.integers(4, 12))).tolist()
            if images and random.random() < 0.7:
                which = int(random.integers(0, 3))
                width, height = sizes[which]
                refs.append(ImageRef(f"picture-{which}", width, height))
                context += [start, *([pad] * (width // 28 * (height // 28))), end]
            completion = random.integers(10, len(tokenizer), int(random.integers(5, 25))).tolist()
            ids += context + completion
            mask += [False] * len(context) + [True] * len(completion)
        logprobs = np.where(mask, random.normal(-5, 0.1, len(ids)), 0).astype(np.float32)
        samples.append(
            TrainSample(f"s{number}", np.array(ids), np.array(mask), logprobs, float(random.normal()), tuple(refs))
        )
    return samples


def reference_log_probs(model: Any, sample: TrainSample, processor: Any, temperature: float = 1.0) -> torch.Tensor:
    """Log-probs of a sample's trained tokens by plain transformers, the vision tokens banned as when sampling."""
    ids = torch.from_numpy(sample.token_ids)[None]
    extra: dict[str, torch.Tensor] = {}
    if sample.images:
        extra = dict(processor(images=[picture(ref) for ref in sample.images], return_tensors="pt"))
        extra["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **extra).logits[0, :-1]
    bias = torch.zeros(logits.shape[-1])
    bias[BANNED] = -100.0
    log_probs = torch.log_softmax((logits + bias) / temperature, -1).gather(-1, ids[0, 1:, None])[:, 0]
    return log_probs[torch.from_numpy(sample.loss_mask[1:])]


def nudge(model: Path, folder: Path) -> Path:
    """A copy of a model whose weights are a little off: a reference policy that differs."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(5)
    off = {
        name: weight + 0.02 * weight.std().nan_to_num() * torch.randn(weight.shape, generator=generator)
        for name, weight in weights.items()
    }
    save_file(off, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def with_policies_logprobs(
    model: Path, samples: list[TrainSample], *, seed: int = 3
) -> tuple[list[TrainSample], list[np.ndarray]]:
    """Samples whose engine log-probs lie near the model's own, and old log-probs near them too."""
    hf, processor = load_plain(model)
    random = np.random.default_rng(seed)
    near, olds = [], []
    for sample in samples:
        with torch.no_grad():
            own = reference_log_probs(hf, sample, processor).numpy()
        engine = np.zeros(len(sample.token_ids), dtype=np.float32)
        engine[sample.loss_mask] = own + random.normal(0, 0.1, len(own))
        near.append(dataclasses.replace(sample, logprobs=engine))
        olds.append((own + random.normal(0, 0.2, len(own))).astype(np.float32))
    return near, olds


def load_plain(model: Path) -> tuple[Any, Any]:
    """The model in plain transformers, and its image processor."""
    from transformers import AutoImageProcessor, Qwen2_5_VLForConditionalGeneration

    hf = Qwen2_5_VLForConditionalGeneration.from_pretrained(model, dtype=torch.float32, attn_implementation="sdpa")
    return hf, AutoImageProcessor.from_pretrained(model)


def reference_gradient(
    model: Path, reference: Path, samples: list[TrainSample], olds: list[np.ndarray], a: AlgorithmConfig = ALGORITHM
) -> dict[str, torch.Tensor]:
    """The GRPO gradient by hand: clipped, dual-clipped, importance weighted, plus the k3 KL."""
    hf, processor = load_plain(model)
    ref, _ = load_plain(reference)
    total = sum(sample.trained_tokens for sample in samples)
    for sample, old_array in zip(samples, olds, strict=True):
        now = reference_log_probs(hf, sample, processor)
        with torch.no_grad():
            other = reference_log_probs(ref, sample, processor)
        old, engine = torch.from_numpy(old_array), torch.from_numpy(sample.logprobs[sample.loss_mask])
        advantage = torch.tensor(sample.advantage)
        ratio = torch.exp(now - old)
        loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - a.clip_low, 1 + a.clip_high))
        if sample.advantage < 0:
            loss = torch.minimum(loss, -advantage * a.clip_c)
        loss = loss * torch.exp(old - engine).clamp(max=a.is_cap)
        kl = torch.exp(other - now) - (other - now) - 1
        ((loss + a.kl_coef * kl).sum() / total).backward()
    return {name: parameter.grad for name, parameter in hf.named_parameters()}


@dataclasses.dataclass(frozen=True)
class Case:
    """A run every rank does a share of; results of rank 0 are written into `out`."""

    model: Path
    reference: Path
    out: Path
    learner: LearnerConfig = LEARNER
    algorithm: AlgorithmConfig = ALGORITHM

    def make_learner(self) -> Learner:
        settings = LearnerSettings(self.model, self.learner, self.algorithm, reference=self.reference)
        return Learner(settings, load_image=picture)

    def make_minibatch_learner(self) -> Learner:
        """One that takes two optimiser steps a training step."""
        return dataclasses.replace(self, learner=dataclasses.replace(self.learner, minibatches=2)).make_learner()


def minibatch_shares(samples: list[TrainSample], ranks: int) -> list[list[TrainSample]]:
    """Shares of 9 samples whose two minibatches are the same 5 and 4 samples on 1 and on 2 ranks.

    With two, rank 0 has eight of them and rank 1 one, so nothing for its second minibatch.
    """
    first, second = samples[:5], samples[5:9]
    taken_in_turn = [sample for pair in zip(first, second, strict=False) for sample in pair]
    return [[*taken_in_turn, first[4]]] if ranks == 1 else [taken_in_turn, [first[4]]]


def gradients(learner: Learner) -> dict[str, torch.Tensor]:
    """Whole gradients by Hugging Face name; a collective."""
    return {
        name.removeprefix("hf."): parameter.grad.full_tensor().clone()
        for name, parameter in learner.model.named_parameters()
    }


def run_case(case: Case, rank: int, ranks: int) -> None:
    """Gradient, step, save, another step, load, that step again; lopsided images; a step of two minibatches."""
    samples, olds = with_policies_logprobs(case.model, make_samples(case.model, 9))
    mine = balanced_shards([len(s.token_ids) for s in samples], ranks)[rank]
    shard_samples, shard_olds = [samples[i] for i in mine], [olds[i] for i in mine]
    learner = case.make_learner()
    learner.accumulate_policy(shard_samples, shard_olds)
    results: dict[str, Any] = {"gradient": gradients(learner)}
    metrics = {"first": learner.apply_gradients()}
    learner.save(case.out / "checkpoint")
    results["saved"] = learner.full_params()
    metrics["second"] = learner.update(shard_samples)
    results["after"] = learner.full_params()
    learner.load(case.out / "checkpoint")
    results["loaded"] = learner.full_params()
    learner.update(shard_samples)
    results["again"] = learner.full_params()

    # Ranks other than 0: text only, and far fewer micro-batches (the last rank: none at all).
    fresh = case.make_learner()
    text, text_olds = with_policies_logprobs(case.model, make_samples(case.model, 1, seed=8, images=False))
    share, share_olds = (samples, olds) if rank == 0 else (text, text_olds) if rank == 1 else ([], [])
    fresh.accumulate_policy(share, share_olds)
    results["lopsided"] = gradients(fresh)

    split = case.make_minibatch_learner()
    metrics["minibatches"] = split.update(minibatch_shares(samples, ranks)[rank])
    results["minibatches"] = split.full_params()
    if rank == 0:
        torch.save(results, case.out / "results.pt")
        (case.out / "metrics.json").write_text(json.dumps(metrics))


def run_rank(rank: int, case: Case, ranks: int, port: int) -> None:
    """One rank of `run_case` in a process of its own."""
    torch.set_num_threads(1)
    start_process_group(rank, ranks, "127.0.0.1", port, timeout_s=120)
    run_case(case, rank, ranks)
    torch.distributed.destroy_process_group()


def run_ranks(case: Case, ranks: int) -> dict[str, Any]:
    """Run a case on `ranks` processes and give rank 0's results; a hang ends with gloo's timeout."""
    case.out.mkdir(parents=True, exist_ok=True)
    torch.multiprocessing.spawn(run_rank, args=(case, ranks, free_port()), nprocs=ranks)
    results = torch.load(case.out / "results.pt", weights_only=True)
    return {**results, "metrics": json.loads((case.out / "metrics.json").read_text())}


def free_port() -> int:
    """A TCP port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
