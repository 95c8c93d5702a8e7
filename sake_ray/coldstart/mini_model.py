"""Builds the mini policy from nothing: tokenizer, image processor, chat template and a tiny Qwen2.5-VL.

Knows nothing of training. Always holds: the tokenizer can encode any text (byte-level), and MiniWorld's
names, looks, board cells (as boxes) and answer punctuation are single tokens, so that episodes stay
short and a name, a look or a place is one thing to find and to copy.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sake_ray.data.miniworld import GRID, LOOKS, NAMES, TEMPLATES, cell_box, make_world
from sake_ray.data.miniworld_texts import CHUNKS, post_lesson

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer() -> Any:
    """A byte-level BPE over the templates' own words, plus MiniWorld's pieces as tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast

    world, rng = make_world(0), random.Random("tokenizer")
    corpus = [post_lesson(rng, world, noted_share=0.3).user for _ in range(300)]
    corpus += [template.format("", "", "") for template in TEMPLATES] * 20
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=440,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    boxes = [json.dumps(cell_box(cell).as_list()) for cell in range(GRID * GRID)]
    boxes += [f" {box}" for box in boxes]
    pieces = [*NAMES, *LOOKS, *boxes, *CHUNKS]
    fast = Qwen2TokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
    )
    fast.add_tokens([AddedToken(piece, special=False, normalized=False) for piece in pieces])
    return fast


def build_processor(tokenizer: Any) -> Any:
    """Qwen's processor for `tokenizer`; images keep their size (to multiples of 28 pixels)."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=1344 * 28 * 28),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE,
    )


def build_model(tokenizer: Any, seed: int, *, hidden: int = 128, layers: int = 4) -> Qwen2_5_VLForConditionalGeneration:
    """A randomly initialised tiny Qwen2.5-VL with tied embeddings, float32."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    heads = hidden // 32
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": hidden,
            "intermediate_size": 3 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 1,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_heads": 3,
            "out_hidden_size": hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [0],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    config._attn_implementation = "sdpa"
    torch.manual_seed(seed)
    return Qwen2_5_VLForConditionalGeneration(config).float()


def save_model(model: Any, processor: Any, folder: Path) -> None:
    """Write a Hugging Face folder in bfloat16 (half the size; everything loads it as float32)."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    original = {name: parameter.data for name, parameter in model.named_parameters()}
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    for name, parameter in model.named_parameters():
        parameter.data = original[name]
