"""How a vLLM engine is set up: its configuration, and an `AsyncLLM` made from it.

Imports vLLM inside functions only. Knows nothing of requests or of when weights change. Always holds: log-probs
are those of the distribution sampled from (bias and temperature applied), and the engine takes our weights and counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from actors.rollout_stats import EngineStats
from sake_ray.actions import STOP_STRINGS

CPU_STEP_TOKENS = 16384
"""Tokens a CPU engine takes into one step, prompts and images included."""

_GIB = 1 << 30


@dataclass(frozen=True)
class EngineConfig:
    """What an engine is started with. Lengths are in tokens, times in seconds.

    `stop` ends a turn: an action is complete at its closing tag, which stays in the output. An engine that has requests
    and makes no step for `stall_timeout_s` is out of use. `pause` is what becomes of requests under way when weights
    come: "wait", "abort" or "keep" (`actors/vllm_requests.py`). Without `logprobs` every
    log-prob is 0, and a token takes less time.
    """

    model: str
    dtype: str = "float32"
    max_model_len: int = 4096
    max_num_seqs: int = 64
    max_images: int = 8
    kv_cache_gib: float = 1.0
    picture_cache_gib: float = 1.0
    gpu_memory_utilization: float = 0.9
    tensor_parallel: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = STOP_STRINGS
    start_timeout_s: float = 900.0
    control_timeout_s: float = 300.0
    request_timeout_s: float = 1800.0
    stall_timeout_s: float = 120.0
    pause: Literal["wait", "abort", "keep"] = "wait"
    ray_metrics: bool = False
    logprobs: bool = True


def import_vllm() -> None:
    """Do the slow import now; the caller chooses the thread."""
    import vllm.v1.engine.async_llm  # noqa: F401


def build_engine(config: EngineConfig, backend: str, stats: EngineStats) -> Any:
    """An `AsyncLLM` with prefix caching, final outputs only, and our weight transport.

    The memory for keys and values is given in bytes on a CPU, as a share of the device on a GPU.
    """
    from vllm.config.weight_transfer import WeightTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    on_cpu = current_platform.is_cpu()
    args = AsyncEngineArgs(
        model=config.model,
        dtype=config.dtype,  # type: ignore[arg-type]
        seed=config.seed,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        tensor_parallel_size=config.tensor_parallel,
        limit_mm_per_prompt={"image": config.max_images, "video": 0},
        enable_prefix_caching=True,
        # CPU attention wants multiples of 32; the smallest gives the finest prefix hits.
        block_size=32 if on_cpu else None,
        enforce_eager=on_cpu,
        # A prompt prefilled in parts makes vLLM take back a draw of the request's own generator, which
        # torch cannot do on a CPU: the engine would die. So a prompt goes in whole or waits a step.
        enable_chunked_prefill=False if on_cpu else None,
        max_num_batched_tokens=max(config.max_model_len, CPU_STEP_TOKENS) if on_cpu else None,
        kv_cache_memory_bytes=int(config.kv_cache_gib * _GIB) if on_cpu else None,
        gpu_memory_utilization=config.gpu_memory_utilization,
        mm_processor_cache_gb=config.picture_cache_gib,
        skip_mm_profiling=on_cpu,
        # After logit bias and temperature: what the learner's own log-probs are compared with.
        logprobs_mode="processed_logprobs",
        disable_log_stats=True,
        worker_extension_cls="actors.vllm_weights.WeightExtension",
        weight_transfer_config=WeightTransferConfig(backend=backend),
    )
    return AsyncLLM.from_engine_args(args, stat_loggers=_stat_loggers(stats, config.ray_metrics))


def _stat_loggers(stats: EngineStats, ray_metrics: bool) -> list[Callable[..., Any]]:
    from vllm.v1.metrics.loggers import StatLoggerBase

    class Recorder(StatLoggerBase):
        """Feeds our counters from vLLM's per-step statistics."""

        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(
            self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
        ) -> None:
            stats.record(scheduler_stats, iteration_stats)

        def log_engine_initialized(self) -> None:
            pass

    loggers: list[Callable[..., Any]] = [Recorder]
    if ray_metrics:
        from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

        loggers.append(RayPrometheusStatLogger)
    return loggers
