"""The real vLLM against plain transformers: log-probs, seeds, stops, bans, and weights replaced in place.

One actor hosts every engine of this file (importing vLLM is most of an engine's start).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from actors.placement import Resources, actor_options, engine_env
from actors.vision_ban import VISION_TOKENS
from actors.vllm_build import CPU_STEP_TOKENS, EngineConfig
from actors.vllm_engine import EngineLost, VllmEngine
from actors.weight_sync import ShmWeightSync, WeightSyncError
from sake_ray.actions import STOP_STRINGS
from sake_ray.types import Completion
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.integration

CPU = Resources(cpus=1)
SIZES = ((112, 84), (56, 140), (84, 84), (196, 56))
GREEDY: dict[str, Any] = {"max_tokens": 24, "seed": 0, "temperature": 0.0}


class EngineHost:
    """Engines by name in one process, driven as a worker drives its own."""

    def __init__(self) -> None:
        self.engines: dict[str, VllmEngine] = {}
        self.seen = 0

    async def start(self, key: str, config: EngineConfig, version: int = 0) -> None:
        self.engines[key] = VllmEngine(config, ShmWeightSync(bucket_bytes=200_000))
        await self.engines[key].start(version)

    async def generate(
        self, key: str, requests: Sequence[tuple[list[int], list[Any], dict[str, Any]]]
    ) -> list[tuple[Completion, tuple[int, ...]]]:
        import asyncio

        engine = self.engines[key]
        return list(await asyncio.gather(*(engine.generate(ids, pictures, **kw) for ids, pictures, kw in requests)))

    async def update(self, key: str, params: dict[str, Any], version: int) -> tuple[dict[str, float], str]:
        timings = await self.engines[key].update_weights(params, version)
        return dict(timings), await self.engines[key].weight_version()

    async def update_during(
        self, key: str, requests: Sequence[tuple[list[int], list[Any], dict[str, Any]]], params: Any, version: int
    ) -> list[tuple[Completion, tuple[int, ...]]]:
        """New weights while every request has begun and none has ended."""
        import asyncio

        engine = self.engines[key]
        tasks = [asyncio.ensure_future(engine.generate(ids, pictures, **kw)) for ids, pictures, kw in requests]
        for _ in range(2000):
            if engine.stats.generated_tokens >= self.seen + 10 * len(requests):
                break
            await asyncio.sleep(0.005)
        assert not any(task.done() for task in tasks)
        await engine.update_weights(params, version)
        return list(await asyncio.gather(*tasks))

    async def mark(self, key: str) -> None:
        self.seen = self.engines[key].stats.generated_tokens

    async def hang(self, key: str, ids: list[int], pictures: list[Any], **options: Any) -> tuple[str, float]:
        """Stop the engine's process in the middle of an answer: what the request ended with, and after how long."""
        import asyncio
        import os
        import signal
        import time

        import psutil

        engine = self.engines.pop(key)
        request = asyncio.ensure_future(engine.generate(ids, pictures, **options))
        await asyncio.sleep(0.3)
        cores = [p for p in psutil.Process().children(recursive=True) if "EngineCore" in " ".join(p.cmdline())]
        youngest = max(cores, key=lambda process: process.create_time())
        os.kill(youngest.pid, signal.SIGSTOP)
        began = time.monotonic()
        await asyncio.wait({request}, timeout=60)
        took = time.monotonic() - began
        engine.shutdown()
        psutil.wait_procs([youngest], timeout=20)
        gone = not youngest.is_running() or youngest.status() == psutil.STATUS_ZOMBIE
        return (repr(request.exception()) if request.done() else "still waiting") + ("" if gone else " (runs)"), took

    async def stats(self, key: str) -> Any:
        return self.engines[key].stats

    async def change(self, key: str, **changes: Any) -> None:
        self.engines[key].config = replace(self.engines[key].config, **changes)

    async def stop(self, key: str) -> None:
        self.engines.pop(key).shutdown()

    async def stop_during(self, key: str, ids: list[int], pictures: list[Any], **options: Any) -> str:
        """Stop an engine while it is answering; what the request ended with."""
        import asyncio

        engine = self.engines.pop(key)
        request = asyncio.ensure_future(engine.generate(ids, pictures, **options))
        await asyncio.sleep(0.2)
        assert not request.done()
        engine.shutdown()
        done, _ = await asyncio.wait({request}, timeout=30)
        return repr(request.exception()) if done else "still waiting"


@dataclass
class Bench:
    """The engine under test, its model's folder, and prompts for it."""

    host: Any
    folder: Path
    tokenizer: Any

    def get(self, method: str, *args: Any, **changes: Any) -> Any:
        import ray

        return ray.get(getattr(self.host, method).remote(*args, **changes), timeout=600)

    def one(self, ids: list[int], pictures: list[Any], **options: Any) -> Any:
        return self.get("generate", "main", [(ids, pictures, options)])[0]

    def prompt(self, text: str = "Find every named entity of the post") -> list[int]:
        turn = f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
        return list(self.tokenizer.encode(turn, add_special_tokens=False))

    def greedy(self, key: str) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        answers = self.get("generate", key, [(self.prompt(), [picture(i)], GREEDY) for i in range(4)])
        return [(completion.token_ids, completion.logprobs) for completion, _ in answers]


def picture(index: int) -> Image.Image:
    width, height = SIZES[index % len(SIZES)]
    return Image.fromarray(np.random.default_rng(index).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def bench(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    import ray
    from transformers import AutoTokenizer

    folder = make_tiny_model(tmp_path_factory.mktemp("model"))
    host = ray.remote(EngineHost).options(**actor_options("engine-test", CPU, engine_env(CPU))).remote()
    bench = Bench(host, folder, AutoTokenizer.from_pretrained(folder))
    bench.get("start", "main", EngineConfig(str(folder), max_model_len=2048, kv_cache_gib=0.25))
    yield bench
    ray.kill(host)


def test_seeded_prompts_beyond_one_engine_step_do_not_depend_on_their_company(bench: Bench) -> None:
    # Ten prompts of about 1,900 tokens are more than a CPU engine takes into one step.
    long = [bench.prompt(f"post {i} " + "word " * 450) for i in range(10)]
    assert sum(len(ids) for ids in long) > CPU_STEP_TOKENS
    assert max(len(ids) for ids in long) < 2040
    requests: list[tuple[Any, Any, dict[str, Any]]] = [
        (ids, [picture(i)], {"max_tokens": 4, "seed": i}) for i, ids in enumerate(long)
    ]
    together = [completion.token_ids for completion, _ in bench.get("generate", "main", requests)]
    assert together[-1] == bench.one(*requests[-1][:2], **requests[-1][2])[0].token_ids


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_of_a_multi_turn_multi_image_episode_equal_transformers(bench: Bench, temperature: float) -> None:
    bench.get("change", "main", temperature=temperature)
    short, pictures, expanded, sampled = bench.prompt(), [picture(0)], (), []
    for turn in range(4):
        completion, prompt = bench.one(short, pictures, max_tokens=30, seed=turn)
        assert prompt[: len(expanded)] == expanded, "a later turn must begin with what was sampled, untouched"
        sampled.append((len(prompt), completion))
        expanded = prompt + completion.token_ids
        short = [*short, *completion.token_ids, *bench.prompt(f"result {turn} of the search")]
        pictures.append(picture(turn + 1))
    bench.get("change", "main", temperature=1.0)
    reference = transformers_logprobs(bench.folder, expanded, pictures[:-1], temperature)
    differences = [
        abs(reference[start - 1 + offset] - logprob)
        for start, completion in sampled
        for offset, logprob in enumerate(completion.logprobs)
    ]
    assert len(differences) > 60
    assert max(differences) <= 1e-5
    stats = bench.get("stats", "main")
    assert stats.prefix_hits > 0 and stats.generated_tokens >= len(differences)


def test_a_seed_gives_the_same_tokens_alone_and_in_any_batch(bench: Bench) -> None:
    requests = [(bench.prompt(), [picture(i)], {"max_tokens": 40, "seed": 100 + i}) for i in range(24)]
    together = bench.get("generate", "main", requests)
    for index in (0, 7, 23):
        ids, pictures, options = requests[index]
        alone, _ = bench.one(ids, pictures, **options)
        assert alone.token_ids == together[index][0].token_ids
        assert np.allclose(alone.logprobs, together[index][0].logprobs, atol=1e-5)
    assert len({completion.token_ids for completion, _ in together}) == 24


def test_sampling_ends_at_a_stop_string_which_stays_in_text_and_ids(bench: Bench) -> None:
    free, _ = bench.one(bench.prompt(), [picture(0)], max_tokens=40, seed=5)
    stop = bench.tokenizer.decode(free.token_ids[10:12])
    bench.get("change", "main", stop=(stop,))
    cut, _ = bench.one(bench.prompt(), [picture(0)], max_tokens=40, seed=5)
    bench.get("change", "main", stop=STOP_STRINGS)
    assert cut.finish_reason == "stop" and cut.text.endswith(stop)
    assert cut.token_ids == free.token_ids[: len(cut.token_ids)] and len(cut.logprobs) == len(cut.token_ids)
    assert free.finish_reason == "length"


def test_vision_tokens_are_never_sampled(bench: Bench) -> None:
    banned = set(bench.tokenizer.convert_tokens_to_ids(list(VISION_TOKENS)))
    requests = [(bench.prompt(), [picture(i)], {"max_tokens": 200, "seed": i}) for i in range(32)]
    answers = bench.get("generate", "main", requests)
    sampled = [token for completion, _ in answers for token in completion.token_ids]
    assert len(sampled) > 3000 and not banned & set(sampled)


def test_impossible_requests_are_refused_and_leave_the_engine_alone(bench: Bench) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        bench.one(bench.prompt(), [picture(0)], max_tokens=0, seed=0)
    with pytest.raises(ValueError, match="9 images in a request"):
        bench.one(bench.prompt(), [picture(0)] * 9, max_tokens=1, seed=0)
    with pytest.raises(ValueError, match="refused a request"):
        bench.one(bench.prompt() * 500, [picture(0)] * 8, max_tokens=1, seed=0)
    assert bench.one(bench.prompt(), [picture(0)], max_tokens=1, seed=0)[0].token_ids


def test_after_two_updates_the_engine_equals_a_fresh_one_and_a_torn_update_never_serves(
    bench: Bench, tmp_path: Path
) -> None:
    before = bench.greedy("main")
    for version in (1, 2):
        params = perturbed(bench.folder, tmp_path / "new", seed=version)
        timings, reported = bench.get("update", "main", params, version)
        assert reported == str(version) and timings["bytes"] > 1_000_000
    assert "lm_head.weight" not in params, "tied: the head comes with the embedding"
    bench.get("start", "fresh", EngineConfig(str(tmp_path / "new"), max_model_len=2048, kv_cache_gib=0.25), 2)
    updated, fresh = bench.greedy("main"), bench.greedy("fresh")
    assert [ids for ids, _ in updated] == [ids for ids, _ in fresh]
    assert [logprobs for _, logprobs in updated] == [logprobs for _, logprobs in fresh]
    assert updated != before
    for key in ("main", "fresh"):  # updated to it; begun with it
        request = (bench.prompt(), [picture(0)], {"max_tokens": 2, "seed": 0})
        ((completion, _),) = bench.get("generate", key, [request])
        assert completion.policy_version == 2

    with pytest.raises(WeightSyncError, match="no parameters"):
        bench.get("update", "fresh", {}, 3)
    assert bench.greedy("fresh") == fresh, "refused before it began: the old weights go on serving"
    params.popitem()
    with pytest.raises(EngineLost, match="lacks 1 of"):
        bench.get("update", "fresh", params, 3)
    with pytest.raises(EngineLost, match="out of use"):
        bench.greedy("fresh")
    bench.get("stop", "fresh")


@pytest.mark.parametrize("pause", ["abort", "keep"])
def test_new_weights_in_the_middle_of_turns_lose_no_token_and_mislabel_none(
    bench: Bench, tmp_path: Path, pause: str
) -> None:
    bench.get("change", "main", pause=pause)
    first = bench.one(bench.prompt(), [picture(0)], max_tokens=1, seed=0)[0].policy_version
    old, new = tmp_path / "old", tmp_path / "new"
    bench.get("update", "main", perturbed(bench.folder, old, seed=7), first + 1)
    requests: list[tuple[Any, Any, dict[str, Any]]] = [
        (bench.prompt(f"post {i}"), [picture(i)], {"max_tokens": 150, "seed": i}) for i in range(4)
    ]
    bench.get("mark", "main")
    params = perturbed(bench.folder, new, seed=8)
    answers = bench.get("update_during", "main", requests, params, first + 2)
    again = bench.one(*requests[0][:2], **requests[0][2])[0]
    assert set(again.token_versions) == {first + 2}
    for (completion, shown), (_, pictures, _) in zip(answers, requests, strict=True):
        versions = completion.token_versions
        count = len(versions)
        assert count == len(completion.token_ids) == len(completion.logprobs)
        assert count == 150 or completion.finish_reason == "stop"
        assert list(versions) == sorted(versions)
        assert set(versions) == {first + 1, first + 2}
        ids = [*shown, *completion.token_ids]
        under = {
            first + 1: transformers_logprobs(old, ids, pictures, 1.0)[-count:],
            first + 2: transformers_logprobs(new, ids, pictures, 1.0)[-count:],
        }
        exact = [under[version][i] for i, version in enumerate(versions)]
        kept = count if pause != "keep" else versions.count(first + 1)  # then it goes on with the old keys and values
        assert np.allclose(completion.logprobs[:kept], exact[:kept], atol=1e-4)
        if pause == "keep":
            apart = np.abs(np.subtract(completion.logprobs, exact))
            assert apart[kept:].max() > 1e-3, "nothing of the old weights was left: say so in the documentation"
    assert np.allclose(
        again.logprobs,
        transformers_logprobs(new, [*answers[0][1], *again.token_ids], [picture(0)], 1.0)[-len(again.logprobs) :],
        atol=1e-4,
    ), "a later request met what older weights had left in the cache"
    bench.get("change", "main", pause="wait")


def test_an_engine_that_hangs_is_given_up_and_its_process_ended(bench: Bench) -> None:
    config = EngineConfig(str(bench.folder), max_model_len=2048, kv_cache_gib=0.25, stall_timeout_s=2.0)
    bench.get("start", "hung", config)
    ended, seconds = bench.get("hang", "hung", bench.prompt(), [picture(0)], max_tokens=1800, seed=0)
    assert ended == "EngineLost('the engine is out of use: it made no step for 2 s')"
    assert seconds < 20


def test_a_request_does_not_outlive_its_engine(bench: Bench) -> None:
    bench.get("start", "short", EngineConfig(str(bench.folder), max_model_len=2048, kv_cache_gib=0.25))
    ended = bench.get("stop_during", "short", bench.prompt(), [picture(0)], max_tokens=1500, seed=0)
    assert ended.startswith("EngineLost") and "out of use" in ended


def transformers_logprobs(folder: Path, ids: Sequence[int], pictures: Sequence[Any], temperature: float) -> list[float]:
    """Log-prob of each token after the first, from one plain float32 forward pass, vision tokens banned."""
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    processor = AutoProcessor.from_pretrained(folder)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    images = processor.image_processor(images=list(pictures), return_tensors="pt")
    tokens = torch.tensor([list(ids)])  # (1, tokens)
    with torch.no_grad():
        logits = model(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            mm_token_type_ids=(tokens == model.config.image_token_id).int(),
            use_cache=False,
            **images,
        ).logits
    banned = processor.tokenizer.convert_tokens_to_ids(list(VISION_TOKENS))
    logits[..., banned] -= 100.0
    logprobs = torch.log_softmax(logits[0, :-1].float() / temperature, -1).gather(-1, tokens[0, 1:, None])[:, 0]
    return [float(value) for value in logprobs]


def perturbed(folder: Path, target: Path, seed: int) -> dict[str, Any]:
    """The model with noise on every parameter: written to `target`, and returned as the learner gives it."""
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(target)
    AutoProcessor.from_pretrained(folder).save_pretrained(target)
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
