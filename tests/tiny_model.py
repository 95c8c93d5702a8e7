"""A tiny random Qwen2.5-VL folder for tests: model, tokenizer, image processor and chat template.

Special tokens, image processor and chat template are those of the shipped base model. The network is not: it has
what the real models have and the shipped one lacks (grouped keys and values, windowed vision attention). Nothing
here is trained. Always holds: the same seed writes the same weights, in float32, with tied embeddings, and the
folder loads in transformers and in vLLM (every id of its vocabulary has a token).
"""

from __future__ import annotations

from pathlib import Path

from sake_ray.coldstart.mini_model import SPECIAL, build_processor

LARGEST_VOCABULARY = 600
HIDDEN = 64

# Enough text for the merges that matter here: the tags of an episode and plain English.
_CORPUS = (
    "<reason>The post names a person and a place that I know .</reason>",
    '<text_search>[{"query": "who is the singer"}]</text_search>',
    '<image_search>[{"query": "stadium at night"}]</image_search>',
    '<answer>[{"entity": "Kora Belmont", "type": "PER", "box2d": [12, 34, 56, 78]}]</answer>',
    "<information>query: result, a city in the north, organisation, event, other</information>",
    "Find every named entity of the post, its type and its box in the picture. PER ORG LOC MISC",
    "system user assistant the quick brown fox jumps over the lazy dog 0 1 2 3 4 5 6 7 8 9",
)


def make_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write a random two-layer Qwen2.5-VL of about 0.35 M parameters into `folder` and return it."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    ids, vocabulary = _write_processor(folder)
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": HIDDEN,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": vocabulary,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": HIDDEN,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config).to(torch.float32)
    # Random weights of the default size give almost uniform log-probs, which hide attention errors.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4.0)
            elif name.endswith("bias"):
                parameter.add_(0.01)
    model.save_pretrained(folder)
    return folder


def _write_processor(folder: Path) -> tuple[dict[str, int], int]:
    """Write tokenizer, image processor and chat template; return the special tokens' ids and the vocabulary size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=LARGEST_VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_CORPUS, trainer)
    tokenizer = Qwen2TokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
    )
    build_processor(tokenizer).save_pretrained(folder)
    return {token: int(tokenizer.convert_tokens_to_ids(token)) for token in SPECIAL}, len(tokenizer)
