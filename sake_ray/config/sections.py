"""Every setting of sake_ray, one frozen dataclass a component, with default, limits and meaning.

Knows nothing of files, presets or the command line. Always holds: a component is given its own section, and a field
says all a user needs to set it. docs/configuration.md is made from this file (`make docs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sake_ray.config.guard_section import GuardConfig
from sake_ray.config.search_section import SearchConfig
from sake_ray.config.serve_section import ServeConfig
from sake_ray.config.values import Section, read_range, setting

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class RunConfig(Section):
    """Where a run writes, and its seed."""

    NAME: ClassVar[str] = "run"
    dir: str = setting("", "folder of the run; empty: runs/JOB-PRESET[-DATA][-seedN]", is_path=True)
    seed: int = setting(0, "seed of everything random in the run", low=0, high=2**31 - 1)


@dataclass(frozen=True)
class DataConfig(Section):
    """Which posts, and how their images are sized."""

    NAME: ClassVar[str] = "data"
    root: str = setting("", "folder of the data set; empty: the embedded MiniWorld", is_path=True)
    task: str = setting("gmner", "entity types: the 4 of GMNER or the 51 of FMNERG", choices=("gmner", "fmnerg"))
    subset: str = setting("all", "posts of one collection only", choices=("all", "twitter15", "twitter17"))
    images: str = setting(
        "files", "read pictures, or draw the gold boxes with labels in their place", choices=("files", "standin")
    )
    image_dir: str = setting("", "folder of the pictures; empty: images/ in data.root", is_path=True)
    on_bad: str = setting("stop", "a bad gold row stops with file and line, or is counted", choices=("stop", "skip"))
    min_pixels: int = setting(512 * 512, "smaller images are enlarged to this many pixels", low=28 * 28)
    max_pixels: int = setting(672 * 672 * 2, "larger images are shrunk to this many pixels", low=28 * 28)
    max_examples: int = setting(0, "use only the first so many training posts; 0: all", low=0)
    difficulty: str = setting(
        "ambiguous",
        "tagged posts that RL trains on, by their hardest entity, with weights: ambiguous,unknown:0.5,known:0.5",
    )


@dataclass(frozen=True)
class WorldConfig(Section):
    """MiniWorld, the embedded data set (used when data.root is empty)."""

    NAME: ClassVar[str] = "world"
    seed: int = setting(0, "seed of all but the known entities, which every world shares", low=0)
    known: int = setting(48, "entities the base model was trained on", low=1, high=48)
    long_tail: int = setting(400, "entities of the training posts that only a search reveals", low=1)
    unseen: int = setting(200, "entities that occur only in held-out posts", low=1)
    train_posts: int = setting(1024, "training posts", low=1)
    dev_posts: int = setting(128, "development posts", low=1)
    test_posts: int = setting(256, "test posts", low=1)


@dataclass(frozen=True)
class ModelConfig(Section):
    """The policy."""

    NAME: ClassVar[str] = "model"
    path: str = setting(
        "mini", "mini: the shipped base model; else a Hugging Face folder (download a hub name first)", is_path=True
    )  # fmt: skip
    dtype: str = setting("float32", "number format the learner computes in", choices=DTYPES)


@dataclass(frozen=True)
class PromptsConfig(Section):
    """The instructions the policy reads."""

    NAME: ClassVar[str] = "prompts"
    dir: str = setting("", "folder of your own prompt files; empty: the shipped ones", is_path=True)
    set: str = setting("full", "which shipped set; compact suits a very small model", choices=("full", "compact"))


@dataclass(frozen=True)
class EpisodeConfig(Section):
    """The limits of one episode."""

    NAME: ClassVar[str] = "episode"
    max_turns: int = setting(3, "policy turns; the last must be an answer", low=1)
    text_searches: int = setting(1, "text searches allowed", low=0)
    image_searches: int = setting(1, "image searches allowed", low=0)
    max_queries: int = setting(5, "queries in one search", low=1)
    max_tokens: int = setting(16384, "tokens of a whole trajectory, images and results included", low=64)
    max_turn_tokens: int = setting(1024, "tokens the policy may write in one turn", low=8)
    max_images: int = setting(8, "images in a trajectory, the post's own included", low=1)


@dataclass(frozen=True)
class RewardConfig(Section):
    """What an episode is worth (docs: method, Reward)."""

    NAME: ClassVar[str] = "reward"
    preset: str = setting("paper", "the paper's rule, or the released code's exactly", choices=("paper", "release"))
    mode: str = setting("EM", "F1 of whole entities, or the mix of three F1 scores", choices=("EM", "MultiEM"))
    mner_weight: float = setting(0.25, "MultiEM: weight of the F1 of texts and types", low=0.0, high=1.0)
    eeg_weight: float = setting(0.25, "MultiEM: weight of the F1 of texts and boxes", low=0.0, high=1.0)
    gmner_weight: float = setting(0.5, "MultiEM: weight of the F1 of whole entities", low=0.0, high=1.0)
    f1_weight: float = setting(0.9, "weight of the F1", low=0.0)
    format_weight: float = setting(0.1, "weight of a well-formed episode", low=0.0)
    search_weight: float = setting(0.05, "cost of each search when the F1 reaches reward.gamma", low=0.0)
    gamma: float = setting(0.9, "F1 from which searches cost", low=0.0, high=1.0)
    use_search_count_penalty: bool = setting(False, "preset=release: 0.01 off an F1 above 0.9 for each search turn")
    iou_threshold: float = setting(0.5, "overlap from which a box is right", above=0.0, high=1.0)
    workers: int = setting(1, "reward actors", low=1)
    cpus_per_worker: float = setting(0.0, "CPUs reserved for each reward actor; 0: shares what is free", low=0.0)


@dataclass(frozen=True)
class RolloutConfig(Section):
    """The inference engines and how they sample."""

    NAME: ClassVar[str] = "rollout"
    workers: int = setting(1, "rollout actors, one vLLM engine each", low=1)
    group_size: int = setting(8, "trajectories sampled for each post", low=1)
    temperature: float = setting(1.0, "sampling temperature in training; evaluation is greedy", low=0.01)
    top_p: float = setting(1.0, "nucleus sampling; 1: off, all that training takes", above=0.0, high=1.0)
    max_num_seqs: int = setting(64, "trajectories an engine decodes at once", low=1)
    groups_ahead: int = setting(
        0, "groups begun beyond what a step needs, so that no slow one holds it up; the order of posts then varies",
        low=0,
    )  # fmt: skip
    deadline_s: float = setting(0.0, "seconds after which a trajectory is ended and left out; 0: none", low=0.0)
    pause: str = setting(
        "wait",
        "what becomes of turns in the making when new weights come: they end first; are cut and go on; or are frozen",
        choices=("wait", "abort", "keep"),
    )
    stall_timeout_s: float = setting(120.0, "an engine with requests and no step for so long is built anew", low=1.0)
    autoscale: str = setting(
        "", "MIN:MAX rollout actors, followed by the learner's waiting; empty: fixed", is_range=True
    )
    cpus_per_worker: float = setting(1.0, "CPUs reserved for each engine", low=0.0)
    gpus_per_worker: float = setting(0.0, "GPUs reserved for each engine", low=0.0)
    tensor_parallel: int = setting(1, "GPUs one engine is spread over", low=1)
    kv_cache_gib: int = setting(1, "KV cache of an engine on CPU, whole GiB", low=1)
    picture_cache_gib: float = setting(
        4.0, "main memory an engine keeps prepared pictures in, GiB; taken as they come, not at the start", low=0.05
    )
    gpu_memory_utilization: float = setting(0.85, "share of a GPU's memory an engine takes", above=0.0, high=1.0)
    dtype: str = setting("float32", "number format of the engine", choices=DTYPES)

    def bounds(self) -> tuple[int, int] | None:
        """MIN and MAX of `autoscale`; None where the number of actors is fixed."""
        return read_range("rollout.autoscale", self.autoscale) if self.autoscale else None


@dataclass(frozen=True)
class LearnerConfig(Section):
    """The ranks that train."""

    NAME: ClassVar[str] = "learner"
    ranks: int = setting(1, "learner actors the model is sharded over", low=1)
    lr: float = setting(2e-6, "learning rate", above=0.0)
    weight_decay: float = setting(0.0, "AdamW weight decay", low=0.0)
    frozen: str = setting(
        "none", "parts that are not trained (a tied head goes with the embeddings)",
        choices=("none", "embeddings", "vision", "embeddings+vision"),
    )  # fmt: skip
    warmup_steps: int = setting(0, "optimiser steps over which the learning rate rises", low=0)
    decay_steps: int = setting(0, "optimiser steps after which the learning rate is 0; 0: it stays", low=0)
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm", above=0.0)
    micro_batch_tokens: int = setting(16384, "tokens a rank takes through forward and backward at once", low=64)
    row_tokens: int = setting(16384, "tokens packed in a row; a longer trajectory has a row of its own", low=64)
    logprob_chunk: int = setting(1024, "tokens whose vocabulary log-probs are held at once", low=1)
    gradient_checkpointing: bool = setting(False, "recompute activations in the backward pass to save memory")
    max_restarts: int = setting(3, "times in a row, with no step between, that lost ranks are started again", low=0)
    minibatches: int = setting(1, "optimiser steps each training step's groups are split into", low=1)
    cpus_per_rank: float = setting(1.0, "CPUs reserved for each rank", low=0.0)
    gpus_per_rank: float = setting(0.0, "GPUs reserved for each rank", low=0.0)


_KL_KINDS = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3", "kl+", "k1+", "abs+", "low_var_kl+", "k3+")


@dataclass(frozen=True)
class AlgorithmConfig(Section):
    """Advantages and loss."""

    NAME: ClassVar[str] = "algorithm"
    advantage: str = setting("grpo", "advantage estimator: a name in verl's registry (grpo, rloo, ...)")
    loss: str = setting("vanilla", "policy loss: a name in verl's registry (vanilla, gspo, ...)")
    clip_low: float = setting(0.2, "probability ratios are clipped below 1 - this", above=0.0, high=1.0)
    clip_high: float = setting(0.2, "probability ratios are clipped above 1 + this", above=0.0)
    clip_c: float = setting(3.0, "dual-clip bound for negative advantages", above=1.0)
    kl_coef: float = setting(0.001, "weight of the KL to the cold-start policy; 0: off, and no reference kept", low=0.0)
    kl_kind: str = setting("low_var_kl", "KL estimator, as verl's kl_penalty computes it", choices=_KL_KINDS)
    is_cap: float = setting(2.0, "cap of the learner/engine probability ratio that weighs a token; 0: off", low=0.0)
    is_tolerance: float = setting(
        1e-4, "log-ratio of learner and engine below which they count as equal: rounding is no difference", low=0.0
    )  # fmt: skip


@dataclass(frozen=True)
class TrainerConfig(Section):
    """The training loop."""

    NAME: ClassVar[str] = "trainer"
    groups_per_step: int = setting(16, "posts (groups) a training step is made of", low=1)
    total_steps: int = setting(200, "training steps", low=1)
    max_staleness: int = setting(0, "versions a group may be behind when it trains; 0: strictly on-policy", low=0)
    eval_every: int = setting(20, "steps between evaluations; 0: only at the end", low=0)
    checkpoint_every: int = setting(20, "steps between checkpoints; 0: only at the end", low=0)
    keep_checkpoints: int = setting(2, "newest checkpoints that are kept; the best evaluated one is besides", low=1)
    export_best: bool = setting(
        True, "write the policy with the best eval/gmner_f1 to RUN/best_policy, for serving, as soon as it is found"
    )
    resume: str = setting("auto", "auto: from the run's newest checkpoint; never; or a checkpoint folder")
    refill: float = setting(
        3.0, "groups a step may begin in place of those without a signal, in multiples of groups_per_step", low=0.0
    )  # fmt: skip
    group_attempts: int = setting(5, "times a group is begun before its post is given up and counted", low=1)


@dataclass(frozen=True)
class EvalConfig(Section):
    """Held-out evaluation."""

    NAME: ClassVar[str] = "eval"
    max_examples: int = setting(0, "evaluate on the first so many posts; 0: all", low=0)
    split: str = setting("dev", "posts to evaluate on", choices=("dev", "test"))


@dataclass(frozen=True)
class TrackingConfig(Section):
    """Where metrics go, beside the run's metrics.jsonl."""

    NAME: ClassVar[str] = "tracking"
    backends: str = setting("tensorboard", "comma-separated: tensorboard, wandb; empty: only metrics.jsonl")
    project: str = setting("sake_ray", "project name shown by the backends")


_PARTS = ("none", "embeddings", "vision", "embeddings+vision")


@dataclass(frozen=True)
class TagsConfig(Section):
    """Stage 1a: how well the base model knows each entity of the training posts."""

    NAME: ClassVar[str] = "tags"
    file: str = setting(
        "", "tags.jsonl of launch/tag_difficulty.py for the training posts; empty: the posts' own marks", is_path=True
    )  # fmt: skip
    samples: int = setting(4, "answers sampled for each post, without tools (the method's n)", low=1)
    temperature: float = setting(1.0, "sampling temperature", low=0.01)
    posts: int = setting(0, "tag the first so many training posts; 0: all", low=0)
    known_by: str = setting(
        "whole", "hits that difficulty goes by: of the whole entity, or of its type alone", choices=("whole", "type")
    )


@dataclass(frozen=True)
class SecotConfig(Section):
    """Stage 1b: SAKE-SeCoT, the multi-turn trajectories that the cold start learns from."""

    NAME: ClassVar[str] = "secot"
    dir: str = setting("", "folder that launch/build_secot.py wrote (read by launch/sft_secot.py)", is_path=True)
    teacher: str = setting(
        "scripted", "who writes them: a script, or a model behind an OpenAI-compatible endpoint",
        choices=("scripted", "openai"),
    )  # fmt: skip
    posts: int = setting(0, "posts to write trajectories for, drawn at random; 0: all", low=0)
    search_share: float = setting(
        0.0, "share of the posts that are taught with a search; 0: as they come", low=0.0, high=1.0
    )
    attempts: int = setting(3, "tries for a post; after a rejected one the teacher is told why", low=1)
    ambiguous: str = setting(
        "skip", "posts with ambiguous entities: left to RL, or taught with a search or without",
        choices=("skip", "search", "answer"),
    )  # fmt: skip
    tools: str = setting(
        "tags", "tools for an unknown entity: those its search tag names, or always the same one",
        choices=("tags", "text", "image"),
    )  # fmt: skip
    image_first: bool = setting(False, "an image search must come before a text search, as reward.preset=release asks")
    images: str = setting(
        "reference", "pictures in the data set: their paths, or their bytes", choices=("reference", "embedded")
    )
    concurrency: int = setting(16, "posts in work at once", low=1)
    endpoint: str = setting("http://127.0.0.1:8000/v1", "openai: base URL of the endpoint")
    model: str = setting("", "openai: the model's name there")
    key_env: str = setting("OPENAI_API_KEY", "openai: environment variable that holds the key; unset: none is sent")
    temperature: float = setting(0.7, "openai: sampling temperature", low=0.0)
    max_turn_tokens: int = setting(1024, "openai: tokens of one turn", low=16)
    requests_per_s: float = setting(5.0, "openai: requests a second, over all posts", above=0.0)
    timeout_s: float = setting(60.0, "openai: seconds one request may take", above=0.0)
    retries: int = setting(4, "openai: times a request is repeated after a time-out, 429 or 5xx", low=0)
    price_in: float = setting(0.0, "openai: price of a million prompt tokens, for the report", low=0.0)
    price_out: float = setting(0.0, "openai: price of a million written tokens, for the report", low=0.0)


@dataclass(frozen=True)
class SftConfig(Section):
    """The cold start: supervised fine-tuning on checked trajectories, on Ray Train."""

    NAME: ClassVar[str] = "sft"
    steps: int = setting(0, "optimiser steps; 0: as many as sft.epochs takes", low=0)
    lr: float = setting(1e-5, "learning rate", above=0.0)
    warmup_ratio: float = setting(0.05, "share of the steps over which the learning rate rises", low=0.0, high=1.0)
    epochs: int = setting(3, "passes over the trajectories", low=1)
    batch_tokens: int = setting(16384, "tokens an optimiser step sees", low=64)
    frozen: str = setting("none", "parts the cold start does not train; learner.frozen is for RL", choices=_PARTS)
    held_out: float = setting(0.05, "share of the trajectories kept for the evaluation loss", low=0.0, high=0.5)
    eval_every: int = setting(50, "steps between evaluations of the held-out loss; 0: only at the end", low=0)
    checkpoint_every: int = setting(100, "steps between checkpoints; 0: only at the end", low=0)
    max_failures: int = setting(3, "lost workers after which the job gives up", low=0)


SECTIONS: tuple[type[Section], ...] = (
    RunConfig, DataConfig, WorldConfig, ModelConfig, PromptsConfig, EpisodeConfig, SearchConfig, RewardConfig,
    RolloutConfig, LearnerConfig, AlgorithmConfig, TrainerConfig, GuardConfig, EvalConfig, TrackingConfig, TagsConfig,
    SecotConfig, SftConfig, ServeConfig,
)  # fmt: skip
