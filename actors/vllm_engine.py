"""One vLLM engine: tokens and images in, sampled tokens and their log-probs out, weights replaced in place.

Imports vLLM inside functions only (the import takes seconds). Knows token ids and pictures; nothing of prompts,
actions or episodes. Always holds: sampled ids are returned untouched, with log-probs of the very distribution they
were sampled from; `version` names the weights that sampled them; every control call has a deadline, and an engine
whose update failed half-way answers nothing any more (`EngineLost`): the owner rebuilds it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actors.rollout_stats import EngineStats
from actors.vision_ban import BAN_BIAS, banned_ids
from actors.vllm_build import EngineConfig, build_engine, import_vllm
from actors.vllm_requests import Piece, TurnInPieces
from actors.weight_sync import Params, WeightSync, WeightSyncError
from sake_ray.seeding import derive_seed
from sake_ray.types import Completion

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)
ABORT_TIMEOUT_S = 5.0


class EngineLost(RuntimeError):
    """The engine died, hung or was left half-updated; only a rebuild brings it back."""


class VllmEngine:
    """A running `AsyncLLM`; create, `await start()`, use, `shutdown()`. One event loop only."""

    def __init__(self, config: EngineConfig, sync: WeightSync) -> None:
        self.config = config
        self.stats = EngineStats()
        self.version = 0
        self._sync = sync
        self._engine: Any = None
        self._lost: str | None = None
        self._gone = asyncio.Event()
        self._logit_bias: dict[int, float] = {}
        self._requests = itertools.count()
        self._updating = asyncio.Lock()
        self._accepting = asyncio.Event()
        self._accepting.set()
        self._under_way = 0
        self._sign = time.monotonic()  # of life, beside the engine's steps
        self._watching: asyncio.Task[None] | None = None
        self._old_prefixes = 0  # updates since the caches were cleared
        self._forgetting = asyncio.Lock()

    async def start(self, version: int = 0) -> None:
        """Load the model from disk; its weights count as `version`.

        Raises:
            EngineLost: the engine did not come up in `start_timeout_s`.
            ValueError: the model's tokenizer has no vision tokens (not a Qwen-VL model).
        """
        begin, self.version = time.monotonic(), version
        # The import is most of the start; in a thread, the actor keeps answering meanwhile.
        await asyncio.to_thread(import_vllm)
        self._engine = build_engine(self.config, self._sync.backend, self.stats)
        try:
            await self._control("init_weight_transfer_engine", self._init_request(), limit=self.config.start_timeout_s)
            self._logit_bias = dict.fromkeys(banned_ids(self._engine.get_tokenizer(), self.config.model), BAN_BIAS)
        except BaseException:
            self.shutdown()
            raise
        self._watching = asyncio.create_task(self._watch())
        logger.info("engine for %s is up after %.1f s", self.config.model, time.monotonic() - begin)

    async def generate(
        self,
        short_ids: Sequence[int],
        images: Sequence[Image],
        *,
        max_tokens: int,
        seed: int,
        temperature: float | None = None,
        heard: Callable[[str], None] | None = None,
    ) -> tuple[Completion, tuple[int, ...]]:
        """Continue `short_ids`, which hold one pad an image of `images` (as the model sees them).

        Returns the completion and the prompt's expanded ids, those a learner trains on. Log-probs are of the
        distribution sampled from: the vision tokens banned, at `temperature` (None: the configuration's; 0:
        greedy, with log-probs at 1). `heard` is given the text piece by piece as it comes.

        Raises:
            EngineLost: the engine is gone, or gave no answer in `request_timeout_s`.
            ValueError: the request is impossible (no room, too many images, too long).
        """
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}; a request must be allowed at least one token")
        if len(images) > self.config.max_images:
            raise ValueError(f"{len(images)} images in a request; the engine was started for {self.config.max_images}")
        turn = TurnInPieces(self.config.stop, max_tokens, self._decode)
        prompt_ids: tuple[int, ...] = ()
        while not turn.done:
            # A request that comes during an update waits, so that its version is that of the weights it meets.
            while not self._accepting.is_set() or self._old_prefixes_must_go():
                await self._accepting.wait()
                await self._forget_old_prefixes()
            self._check_usable()
            prompt: dict[str, Any] = {"prompt_token_ids": [*short_ids, *turn.token_ids]}
            if images:
                prompt["multi_modal_data"] = {"image": list(images)}
            piece_seed = derive_seed(seed, "piece", turn.pieces) if turn.pieces else seed
            sampling = self._sampling(turn.room, piece_seed, temperature, turn.stops(), streamed=heard is not None)
            piece, shown = await self._run(prompt, sampling, heard)
            prompt_ids = prompt_ids or shown
            turn.add(piece)
        return turn.completion(), prompt_ids

    async def update_weights(self, params: Params, version: int) -> Mapping[str, float]:
        """Pause as configured, replace all weights, go on; returns the seconds and bytes it took.

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
                self._sign = time.monotonic()
                self._accepting.set()

    async def weight_version(self) -> str:
        """The version the engine itself reports ("" semantics are vLLM's before the first update)."""
        return str(await self._control("get_weight_version"))

    def shutdown(self) -> None:
        """Stop the engine's processes; harmless when called twice."""
        self._gone.set()
        if self._watching is not None:
            self._watching.cancel()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.shutdown()

    # --- inside ----------------------------------------------------------------------------------

    async def _replace_weights(self, params: Params, version: int) -> Mapping[str, float]:
        begin = time.monotonic()
        await self._all_arrived()
        # The prefix cache holds keys and values of the old weights: cleared with the pause, but for requests that are
        # to go on with them (clearing it under those kills the engine).
        keep = self.config.pause == "keep"
        await self._control("pause_generation", mode=self.config.pause, clear_cache=not keep)
        self._old_prefixes = self._old_prefixes + 1 if keep else 0
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

    async def _all_arrived(self) -> None:
        """Wait until every request under way has reached the engine.

        A pause clears the cache of prepared pictures: a request whose pictures are just being prepared would be lost.
        """
        deadline = time.monotonic() + self.config.control_timeout_s
        while True:
            self._check_usable()
            if self._engine.output_processor.get_num_unfinished_requests() >= self._under_way:
                return
            if time.monotonic() > deadline:
                self._give_up("requests did not reach it")
            await asyncio.sleep(0.002)

    def _old_prefixes_must_go(self) -> bool:
        return self._old_prefixes > 0 and not self._under_way and self._lost is None

    async def _forget_old_prefixes(self) -> None:
        """After a `keep`, clear what old weights made of prompts and pictures, once nothing runs that needs it."""
        async with self._forgetting:  # whoever comes meanwhile must not run before it is done
            if not self._old_prefixes_must_go():
                return
            updates = self._old_prefixes
            if not await self._control("reset_prefix_cache"):
                await asyncio.sleep(0.01)
                return
            await self._control("reset_encoder_cache")
            if self._old_prefixes == updates:  # else another update came
                self._old_prefixes = 0

    def _sampling(
        self, max_tokens: int, seed: int, temperature: float | None, stop: Sequence[str], *, streamed: bool
    ) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        # Frozen requests go on under new weights: what came before is told from what comes after only in a stream.
        streamed = streamed or self.config.pause == "keep"
        return SamplingParams(
            temperature=self.config.temperature if temperature is None else temperature,
            top_p=1.0 if temperature == 0.0 else self.config.top_p,
            seed=seed,
            max_tokens=max_tokens,
            stop=list(stop),
            include_stop_str_in_output=True,
            logprobs=0 if self.config.logprobs else None,
            logit_bias=self._logit_bias,
            output_kind=RequestOutputKind.DELTA if streamed else RequestOutputKind.FINAL_ONLY,
        )

    async def _run(
        self, prompt: dict[str, Any], sampling: Any, heard: Callable[[str], None] | None
    ) -> tuple[Piece, tuple[int, ...]]:
        """What one request gave, and the prompt's expanded ids. Cancelling this call cancels it in the engine."""
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        if not self._under_way:
            self._sign = time.monotonic()
        self._under_way += 1
        try:
            async with asyncio.timeout(self.config.request_timeout_s):
                output, piece = await self._unless_gone(self._outputs(prompt, sampling, heard))
        except EngineDeadError as error:
            self._give_up("its EngineCore process died")
            raise EngineLost("the engine's EngineCore process died") from error
        except VLLMClientError as error:  # the request's fault; the engine goes on
            raise ValueError(f"the engine refused a request: {error}") from error
        except TimeoutError as error:
            self._give_up("it stopped answering")
            raise EngineLost(f"the engine gave no answer in {self.config.request_timeout_s:.0f} s") from error
        finally:
            self._under_way -= 1
        cut = self.config.pause == "abort" and not self._accepting.is_set()  # by our own pause
        if output is None or not output.finished or (piece.finish_reason == "abort" and not cut):
            self._give_up("it dropped a request")
            raise EngineLost("the engine dropped a request without finishing it")
        return piece, tuple(output.prompt_token_ids)

    async def _outputs(
        self, prompt: dict[str, Any], sampling: Any, heard: Callable[[str], None] | None
    ) -> tuple[Any, Piece]:
        """Follow one request to its end; tokens have the version of the weights at the time they come.

        Not at the time they are asked for: a request that reaches the engine during a pause waits there, and meets the
        new weights. One that is under way ends, is cut off, or is followed token by token before weights change.
        """
        ids: list[int] = []
        logprobs: list[float] = []
        versions: list[int] = []
        text, reason, stopped_by, output = "", "abort", None, None
        async for output in self._engine.generate(prompt, sampling, f"request-{next(self._requests)}"):
            new = output.outputs[0]
            ids += new.token_ids
            logprobs += _logprobs(new) if self.config.logprobs else [0.0] * len(new.token_ids)
            versions += [self.version] * len(new.token_ids)
            text += new.text
            if heard is not None and new.text:
                heard(new.text)
            reason, stopped_by = new.finish_reason or "abort", new.stop_reason
        return output, Piece(tuple(ids), tuple(logprobs), tuple(versions), text, reason, stopped_by)

    async def _unless_gone(self, request: Coroutine[Any, Any, Any]) -> Any:
        """`request`, or `EngineLost` once the engine is out of use: an engine that is stopped wakes no request."""
        running, gone = asyncio.ensure_future(request), asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait({running, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                raise EngineLost(f"the engine is out of use: {self._lost or 'it was stopped'}")
            return running.result()
        finally:
            running.cancel()
            gone.cancel()
            await asyncio.wait({running, gone}, timeout=ABORT_TIMEOUT_S)

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

    async def _watch(self) -> None:
        """Give the engine up when it has requests and makes no step: a process that hangs tells nobody."""
        limit = self.config.stall_timeout_s
        while True:
            await asyncio.sleep(limit / 8)
            quiet = time.monotonic() - max(self.stats.last_step, self._sign)
            if self._under_way and self._accepting.is_set() and quiet > limit:
                self._give_up(f"it made no step for {quiet:.0f} s")

    def _decode(self, ids: Sequence[int]) -> str:
        """The text of ids as vLLM streams it: a character that is not whole yet is no text."""
        from tokenizers.decoders import DecodeStream

        tokenizer, stream = self._engine.get_tokenizer().backend_tokenizer, DecodeStream(skip_special_tokens=True)
        return "".join(piece for token in ids if (piece := stream.step(tokenizer, token)))

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
            self._gone.set()
            logger.warning("engine for %s is out of use: %s", self.config.model, reason)


def _logprobs(new: Any) -> list[float]:
    return [at[token].logprob for at, token in zip(new.logprobs or (), new.token_ids, strict=True)]


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
