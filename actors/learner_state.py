"""What a learner writes and reads: sharded checkpoints, full parameters, Hugging Face folders.

Knows nothing of batches, losses or when to save. Always holds: a checkpoint is torch DCP in safetensors
files (no pickle), so any number of ranks can load what any other number wrote; parameters carry their
Hugging Face names, and a tied head occurs once, as the embedding; an exported folder is whole or not
there. Every function but `write_folder` is a collective: all ranks call it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from actors.packed_model import PackedModel
from sake_ray.trainer.checkpoint import lacks_room

FORMAT = 1
FACTS = "learner.json"
SHARDS = "shards"
_PREFIX = "hf."
_MOMENTS = ("exp_avg", "exp_avg_sq")


def full_params(model: PackedModel) -> dict[str, torch.Tensor]:
    """Hugging Face name → whole float32 parameter on the CPU; empty on ranks other than 0."""
    whole: dict[str, torch.Tensor] = {}
    for name, parameter in _named(model).items():
        value = parameter.detach()
        value = value.full_tensor() if isinstance(value, DTensor) else value
        if dist.get_rank() == 0:
            # A copy: with one rank the whole parameter is the live one, which the next step changes.
            whole[name] = value.to("cpu", copy=True)
    return whole


def save(folder: Path, model: PackedModel, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write parameters, optimiser moments and step into `folder`, which all ranks must see.

    Raises:
        OSError: on every rank, when `folder` has no room.
    """
    import torch.distributed.checkpoint as dcp

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": parameter.detach() for name, parameter in _named(model).items()}
    tensors |= _moments(model, optimizer)
    writer = dcp.HuggingFaceStorageWriter(str(folder / SHARDS), save_distributed=True)
    with ordinary_errors(folder):
        dcp.save(tensors, storage_writer=writer)
    facts = {"format": FORMAT, "step": step, "ranks": dist.get_world_size(), "tensors": len(tensors)}
    _on_rank_0(folder, lambda: (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8"))


def load(folder: Path, model: PackedModel, optimizer: torch.optim.Optimizer) -> int:
    """Load what `save` wrote, on any number of ranks, in place; return the step.

    Raises:
        FileNotFoundError: `folder` is no learner checkpoint.
        ValueError: it is of another format, or of another model.
    """
    import torch.distributed.checkpoint as dcp

    if not (folder / FACTS).is_file():
        raise FileNotFoundError(f"{folder} is no learner checkpoint: {FACTS} is missing")
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    if facts.get("format") != FORMAT:
        raise ValueError(f"{folder / FACTS} has format {facts.get('format')!r}; this version reads {FORMAT}")
    step = int(facts["step"])
    if step > 0:
        _make_moments(model, optimizer, step)
    else:
        optimizer.state.clear()
    tensors = {f"model.{name}": parameter.detach() for name, parameter in _named(model).items()}
    tensors |= _moments(model, optimizer)
    reader = dcp.HuggingFaceStorageReader(str(folder / SHARDS))
    check_same_model(folder, {name: tensor.shape for name, tensor in tensors.items()}, reader)
    with ordinary_errors(folder):
        dcp.load(tensors, storage_reader=reader)
    return step


def export(folder: Path, model: PackedModel, source: Path, dtype: str = "float32") -> None:
    """Write a Hugging Face folder: parameters as `dtype`, and config, tokenizer and processor of `source`.

    A folder that is there is replaced by the new one, once that is complete.
    """
    params = full_params(model)
    _on_rank_0(folder, lambda: write_folder(folder, model.hf, params, source, dtype))


@contextlib.contextmanager
def ordinary_errors(folder: Path) -> Iterator[None]:
    """Around DCP's calls: what it raises is no `Exception`, and would end the process of an actor.

    Raises:
        OSError: `folder` has no room.
        RuntimeError: anything else that kept DCP from reading or writing it.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        if lacks_room(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from None
        raise RuntimeError(f"checkpoint {folder} could not be read or written: {error}") from None


def _on_rank_0(folder: Path, write: Callable[[], object]) -> None:
    """Let rank 0 write into `folder`; all ranks wait for it, and all fail if it does: none is left in a collective.

    Raises:
        OSError: on the other ranks, where rank 0 failed; it raises its own error.
    """
    try:
        if dist.get_rank() == 0:
            write()
    except BaseException as error:
        _from_rank_0(errno.ENOSPC if lacks_room(error) else errno.EIO)
        raise
    if number := _from_rank_0(0):
        raise OSError(number, f"{os.strerror(number)}: rank 0 could not write it", str(folder))


def _from_rank_0(number: int) -> int:
    """The number rank 0 has; on GPUs a CPU tensor goes through the group's gloo half."""
    told = torch.tensor(number)
    dist.broadcast(told, src=0)
    return int(told)


def write_folder(folder: Path, hf: Any, params: dict[str, torch.Tensor], source: Path, dtype: str) -> None:
    """What `export` writes, by one process alone; `hf` is a transformers model that has these parameters."""
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
    try:
        _fill(aside, hf, params, source, dtype)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    _put_in_place(aside, folder)


def _fill(aside: Path, hf: Any, params: dict[str, torch.Tensor], source: Path, dtype: str) -> None:
    aside.mkdir(parents=True)
    state = {name: tensor.to(getattr(torch, dtype)) for name, tensor in params.items()}
    hf.save_pretrained(aside, state_dict=state)
    _record_dtype(aside / "config.json", dtype)
    for path in sorted(source.iterdir()):
        # Tokenizer, processor and chat template as they were; weights and their index are ours.
        is_weights = path.suffix in (".safetensors", ".bin", ".pt") or path.name.endswith(".index.json")
        if path.is_file() and not is_weights and not (aside / path.name).exists():
            shutil.copyfile(path, aside / path.name)


def _put_in_place(made: Path, folder: Path) -> None:
    """Rename `made` to `folder`; one that is there is renamed before it is removed, so that no half of it is left."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    made.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _record_dtype(config: Path, dtype: str) -> None:
    """Name the written number format in config.json: transformers writes the one the model trains in."""
    values = json.loads(config.read_text(encoding="utf-8"))
    for part in (values, *(value for value in values.values() if isinstance(value, dict))):
        if "dtype" in part:
            part["dtype"] = dtype
    config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _named(model: PackedModel) -> dict[str, torch.nn.Parameter]:
    """Parameters by Hugging Face name, each once (a tied head is the embedding)."""
    return {name.removeprefix(_PREFIX): parameter for name, parameter in model.named_parameters()}


def _moments(model: PackedModel, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's tensors by name; none before its first step."""
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment]
        for name, parameter in _named(model).items()
        if parameter in optimizer.state
        for moment in _MOMENTS
    }


def _make_moments(model: PackedModel, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Give the optimiser the state it has after `step` steps, moments to be filled in."""
    for parameter in _named(model).values():
        if not parameter.requires_grad:
            continue
        state: dict[str, Any] = {"step": torch.tensor(float(step))}
        state |= {moment: torch.zeros_like(parameter.detach()) for moment in _MOMENTS}
        optimizer.state[parameter] = state


def check_same_model(folder: Path, shapes: dict[str, torch.Size], reader: Any, only: str = "") -> None:
    """Hold the tensors of a checkpoint, those whose name begins with `only`, against those of a model.

    Raises:
        ValueError: a name or a shape differs; says which.
    """
    found = reader.read_metadata().state_dict_metadata
    stored = {name: entry.size for name, entry in found.items() if name.startswith(only)}
    for name in sorted(shapes.keys() | stored.keys()):
        if shapes.get(name) != stored.get(name):
            here, there = shapes.get(name), stored.get(name)
            raise ValueError(
                f"checkpoint {folder} does not fit this model: {name} is {tuple(there) if there else 'absent'} in it "
                f"and {tuple(here) if here else 'absent'} here; use the model.path and learner.frozen it was made with"
            )
