"""One vLLM engine: tokens and images in, sampled tokens and their log-probs out, weights replaced in place.

The only module that imports vLLM (inside functions: the import takes seconds). Knows token ids and
pictures; nothing of prompts, actions or episodes. Always holds: sampled ids are returned untouched;
`version` names the weights that sampled them; every control call has a deadline, and an engine whose
update failed half-way answers nothing any more (`EngineLost`): the owner rebuilds it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actors.weight_sync import Params, WeightSync, WeightSyncError
from sake_ray.types import Completion

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

STOP_STRINGS = ("</answer>", "</text_search>", "</image_search>")
"""An action is complete at its closing tag; sampling ends there and the tag stays in the output."""

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
"""Never sampled: a stray pad would stand for an image that is not there, and vLLM accepts it silently."""

CPU_STEP_TOKENS = 16384
"""Tokens a CPU engine takes into one step, prompts and images included."""

_BANNED = -100.0
_GIB = 1 << 30


class EngineLost(RuntimeError):
    """The engine died, hung or was left half-updated; only a rebuild brings it back."""


@dataclass(frozen=True)
class EngineConfig:
    """What an engine is started with. Lengths are in tokens, times in seconds."""

    model: str
    dtype: str = "float32"
    max_model_len: int = 4096
    max_num_seqs: int = 64
    max_images: int = 8
    kv_cache_gib: float = 1.0
    gpu_memory_utilization: float = 0.9
    tensor_parallel: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = STOP_STRINGS
    start_timeout_s: float = 900.0
    control_timeout_s: float = 300.0
    request_timeout_s: float = 1800.0
    ray_metrics: bool = False


@dataclass(slots=True)
class EngineStats:
    """Counters since the engine was built (`running`, `waiting`, `kv_usage`: now)."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0

    def record(self, scheduler: Any, iteration: Any) -> None:
        """Add one engine step, in vLLM's `SchedulerStats` and `IterationStats` (either may be None)."""
        if scheduler is not None:
            self.running = scheduler.num_running_reqs
            self.waiting = scheduler.num_waiting_reqs
            self.kv_usage = scheduler.kv_cache_usage
            self.prefix_queries += scheduler.prefix_cache_stats.queries
            self.prefix_hits += scheduler.prefix_cache_stats.hits
        if iteration is not None:
            self.prompt_tokens += iteration.num_prompt_tokens
            self.generated_tokens += iteration.num_generation_tokens
            self.preemptions += iteration.num_preempted_reqs


class VllmEngine:
    """A running `AsyncLLM`; create, `await start()`, use, `shutdown()`. One event loop only."""

    def __init__(self, config: EngineConfig, sync: WeightSync) -> None:
        self.config = config
        self.stats = EngineStats()
        self.version = 0
        self._sync = sync
        self._engine: Any = None
        self._lost: str | None = None
        self._logit_bias: dict[int, float] = {}
        self._requests = itertools.count()
        self._updating = asyncio.Lock()
        self._accepting = asyncio.Event()
        self._accepting.set()

    async def start(self) -> None:
        """Load the model from disk; its weights count as version 0.

        Raises:
            EngineLost: the engine did not come up in `start_timeout_s`.
            ValueError: the model's tokenizer has no vision tokens (not a Qwen-VL model).
        """
        begin = time.monotonic()
        # The import is most of the start; in a thread, the actor keeps answering meanwhile.
        await asyncio.to_thread(_import_vllm)
        self._engine = _build(self.config, self._sync.backend, self.stats)
        try:
            await self._control("init_weight_transfer_engine", self._init_request(), limit=self.config.start_timeout_s)
            self._logit_bias = _vision_ban(self._engine.get_tokenizer(), self.config.model)
        except BaseException:
            self.shutdown()
            raise
        logger.info("engine for %s is up after %.1f s", self.config.model, time.monotonic() - begin)

    async def generate(
        self, short_ids: Sequence[int], images: Sequence[Image], *, max_tokens: int, seed: int, greedy: bool = False
    ) -> tuple[Completion, tuple[int, ...]]:
        """Continue `short_ids`, which hold one pad an image of `images` (as the model sees them).

        Returns the completion and the prompt's expanded ids, those a learner trains on. Log-probs are
        of the model's own distribution: at temperature 1 they are what was sampled from, but for the
        mass of the banned vision tokens.

        Raises:
            EngineLost: the engine is gone, or gave no answer in `request_timeout_s`.
            ValueError: the request is impossible (no room, too many images, too long).
        """
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}; a request must be allowed at least one token")
        if len(images) > self.config.max_images:
            raise ValueError(f"{len(images)} images in a request; the engine was started for {self.config.max_images}")
        # A request that comes during an update waits, so that its version is that of the weights it meets.
        await self._accepting.wait()
        self._check_usable()
        version = self.version
        prompt: dict[str, Any] = {"prompt_token_ids": list(short_ids)}
        if images:
            prompt["multi_modal_data"] = {"image": list(images)}
        output = await self._run(prompt, self._sampling(max_tokens, seed, greedy))
        sampled = output.outputs[0]
        ids = tuple(sampled.token_ids)
        completion = Completion(
            token_ids=ids,
            logprobs=tuple(at[token].logprob for at, token in zip(sampled.logprobs, ids, strict=True)),
            text=sampled.text,
            finish_reason=sampled.finish_reason,
            policy_version=version,
        )
        return completion, tuple(output.prompt_token_ids)

    async def update_weights(self, params: Params, version: int) -> Mapping[str, float]:
        """Drain, replace all weights, go on; returns the seconds and bytes it took.

        Raises:
            WeightSyncError: `params` cannot be handed over; the engine still serves its old weights.
            EngineLost: the update failed half-way or ran out of time.
        """
        async with self._updating:
            self._check_usable()
            self._accepting.clear()
            try:
                return await self._replace_weights(params, version)
            finally:
                self._accepting.set()

    async def weight_version(self) -> str:
        """The version the engine itself reports ("" semantics are vLLM's before the first update)."""
        return str(await self._control("get_weight_version"))

    def shutdown(self) -> None:
        """Stop the engine's processes; harmless when called twice."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.shutdown()

    # --- inside ----------------------------------------------------------------------------------

    async def _replace_weights(self, params: Params, version: int) -> Mapping[str, float]:
        begin = time.monotonic()
        # The prefix cache holds keys and values of the old weights: cleared with the pause.
        await self._control("pause_generation", mode="wait", clear_cache=True)
        paused = time.monotonic()
        handover = _Handover(self)
        try:
            moved = await self._sync.push(handover, params, version)
            self.version = version
            await self._control("resume_generation")
        except WeightSyncError:
            if handover.touched:
                self._give_up("a weight update failed half-way")
            else:
                await self._control("resume_generation")
            raise
        except asyncio.CancelledError:
            self._give_up("a weight update was cancelled half-way")
            raise
        except Exception as error:  # the engine's process boundary: vLLM wraps whatever failed there
            self._give_up("a weight update failed half-way")
            raise EngineLost(f"weight update to version {version} failed: {error}") from error
        return {"pause_s": paused - begin, "load_s": time.monotonic() - paused, "bytes": float(moved)}

    def _sampling(self, max_tokens: int, seed: int, greedy: bool) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=0.0 if greedy else self.config.temperature,
            top_p=1.0 if greedy else self.config.top_p,
            seed=seed,
            max_tokens=max_tokens,
            stop=list(self.config.stop),
            include_stop_str_in_output=True,
            logprobs=0,
            logit_bias=self._logit_bias,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    async def _run(self, prompt: dict[str, Any], sampling: Any) -> Any:
        """The final output of one request. Cancelling this call cancels the request in the engine."""
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        output: Any = None
        try:
            async with asyncio.timeout(self.config.request_timeout_s):
                async for step in self._engine.generate(prompt, sampling, f"request-{next(self._requests)}"):
                    output = step
        except EngineDeadError as error:
            self._give_up("its EngineCore process died")
            raise EngineLost("the engine's EngineCore process died") from error
        except VLLMClientError as error:  # the request's fault; the engine goes on
            raise ValueError(f"the engine refused a request: {error}") from error
        except TimeoutError as error:
            self._give_up("it stopped answering")
            raise EngineLost(f"the engine gave no answer in {self.config.request_timeout_s:.0f} s") from error
        if output is None or not output.finished or output.outputs[0].finish_reason == "abort":
            self._give_up("it dropped a request")
            raise EngineLost("the engine dropped a request without finishing it")
        return output

    async def _control(self, method: str, *args: Any, limit: float | None = None, **kwargs: Any) -> Any:
        """Call a control method with a deadline: one pending when EngineCore dies would never return."""
        from vllm.v1.engine.exceptions import EngineDeadError

        limit = self.config.control_timeout_s if limit is None else limit
        try:
            return await self._bounded(getattr(self._engine, method)(*args, **kwargs), limit)
        except EngineDeadError as error:
            self._give_up("its EngineCore process died")
            raise EngineLost(f"the engine died during {method}") from error
        except TimeoutError as error:
            self._give_up(f"{method} did not return")
            raise EngineLost(f"the engine did not return from {method} within {limit:.0f} s") from error

    async def _bounded(self, call: Awaitable[Any], limit: float) -> Any:
        """Await `call`, looking once a second whether the engine is still alive."""
        task = asyncio.ensure_future(call)
        try:
            async with asyncio.timeout(limit):
                while not (await asyncio.wait({task}, timeout=1.0))[0]:
                    if self._engine is not None and self._engine.errored:
                        raise self._engine.dead_error
            return task.result()
        finally:
            task.cancel()

    def _init_request(self) -> Any:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        return WeightTransferInitRequest(init_info=self._sync.init_info)

    def _check_usable(self) -> None:
        if self._lost is not None:
            raise EngineLost(f"the engine is out of use: {self._lost}")
        if self._engine is None:
            raise EngineLost("the engine is not running; start() it first")

    def _give_up(self, reason: str) -> None:
        if self._lost is None:
            self._lost = reason
            logger.warning("engine for %s is out of use: %s", self.config.model, reason)


class _Handover:
    """`WeightControl` over an engine; remembers whether its weights were touched."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine
        self.touched = False

    async def start_weight_update(self) -> None:
        self.touched = True
        await self._engine._control("start_weight_update")

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self._engine._control("update_weights", WeightTransferUpdateRequest(update_info=update_info))

    async def finish_weight_update(self, weight_version: str) -> None:
        await self._engine._control("finish_weight_update", weight_version)


def _import_vllm() -> None:
    import vllm.v1.engine.async_llm  # noqa: F401


def _build(config: EngineConfig, backend: str, stats: EngineStats) -> Any:
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
        skip_mm_profiling=on_cpu,
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


def _vision_ban(tokenizer: Any, model: str) -> dict[int, float]:
    """A logit bias that keeps the vision tokens of this tokenizer from being sampled."""
    vocabulary = tokenizer.get_vocab()
    ban = {vocabulary[token]: _BANNED for token in VISION_TOKENS if token in vocabulary}
    if not ban:
        raise ValueError(f"the tokenizer of {model} has none of {', '.join(VISION_TOKENS)}; it is no Qwen-VL model")
    return ban
