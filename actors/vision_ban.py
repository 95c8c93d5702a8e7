"""The tokens a policy may never write, and the one bias against them that engine and learner share.

Knows nothing of engines, losses or images. Always holds: the engine samples from, and the learner computes
log-probs of, one distribution: logits plus this bias, divided by the temperature.
"""

from __future__ import annotations

from typing import Any

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
"""Never sampled: a stray pad would stand for an image that is not there, and vLLM accepts it silently."""

BAN_BIAS = -100.0
"""Added to a banned token's logit before the temperature, as vLLM does with a logit bias."""


def banned_ids(tokenizer: Any, model: str) -> tuple[int, ...]:
    """The ids of the vision tokens in this tokenizer.

    Raises:
        ValueError: it has none of them; `model` names its folder in the message.
    """
    vocabulary = tokenizer.get_vocab()
    ids = tuple(vocabulary[token] for token in VISION_TOKENS if token in vocabulary)
    if not ids:
        raise ValueError(f"the tokenizer of {model} has none of {', '.join(VISION_TOKENS)}; it is no Qwen-VL model")
    return ids
