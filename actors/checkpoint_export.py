"""A learner's checkpoint as a Hugging Face folder, by one process alone, without a learner.

Knows nothing of runs or of what the folder is for. Always holds: the parameters are those of the checkpoint, bit for
bit in float32, under their Hugging Face names; config, tokenizer and processor are those of the model it was made
from; the folder is whole or not there.
"""

from __future__ import annotations

import json
from pathlib import Path

from actors.learner_state import FACTS, FORMAT, SHARDS, check_same_model, ordinary_errors, write_folder


def export_checkpoint(checkpoint: Path, source: Path, folder: Path, dtype: str = "float32") -> int:
    """Write the parameters in `checkpoint` (what `learner_state.save` wrote) to `folder`; returns their step.

    `source` is a Hugging Face folder of the same architecture, the one that the run started from.

    Raises:
        ValueError: it is no learner's checkpoint, of another format, or of another model than `source`.
    """
    import torch
    import torch.distributed.checkpoint as dcp
    from transformers import Qwen2_5_VLForConditionalGeneration

    if not (checkpoint / FACTS).is_file():
        raise ValueError(f"{checkpoint} is no learner's checkpoint: {FACTS} is missing")
    facts = json.loads((checkpoint / FACTS).read_text(encoding="utf-8"))
    if facts.get("format") != FORMAT:
        raise ValueError(f"{checkpoint / FACTS} has format {facts.get('format')!r}; this version reads {FORMAT}")
    hf = Qwen2_5_VLForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    tensors = {f"model.{name}": parameter.detach() for name, parameter in hf.named_parameters()}
    reader = dcp.HuggingFaceStorageReader(str(checkpoint / SHARDS))
    check_same_model(checkpoint, {name: tensor.shape for name, tensor in tensors.items()}, reader, only="model.")
    with ordinary_errors(checkpoint):
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    params = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    write_folder(folder, hf, params, source, dtype)
    return int(facts["step"])
