"""Fully sharded data parallel (FSDP2): each rank keeps a share of parameters, gradients and optimiser states.

A block's parameters are gathered when it runs and let go afterwards. Checkpoints hold whole tensors, so a run may be
resumed by another number of ranks, or by one alone.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["alone", "is_sharded", "local", "shard", "spread", "spread_optimizer", "whole", "whole_tree"]


def shard(model: nn.Module) -> nn.Module:
    """Share a model's parameters out among the ranks, in place: one group for each encoder block, one for the rest."""
    from torch.distributed.fsdp import fully_shard

    # It is said of every output that is a view, such as a permuted map; nothing changes one in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # not channels-last, which cannot be shared out
    encoder: Any = model.encoder  # decoders are small, and some read the weights of their layers without calling them
    lists = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    for block in (block for one in lists for block in one):
        if not any(isinstance(module, nn.ModuleList) for module in block.modules()):
            fully_shard(block)
    fully_shard(model)
    return model


def is_sharded(model: nn.Module) -> bool:
    """Tell whether `shard` has shared a model out."""
    return hasattr(model, "set_requires_gradient_sync")


@contextmanager
def alone(model: Any) -> Iterator[None]:
    """Have gradients stay on this rank for a while: they are added to the next ones."""
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def local(tensor: Tensor) -> Tensor:
    """Return this rank's share of a tensor; one that is not shared out as it is."""
    shared: Any = tensor
    return shared.to_local() if _is_shared(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor, on every rank; all ranks call this together."""
    shared: Any = tensor
    return shared.full_tensor() if _is_shared(tensor) else tensor


def whole_tree(values: Any) -> Any:
    """Return mappings and lists with every tensor in them whole; all ranks call this together."""
    if isinstance(values, Tensor):
        return whole(values)
    if isinstance(values, Mapping):
        return {key: whole_tree(value) for key, value in values.items()}
    return [whole_tree(value) for value in values] if isinstance(values, list) else values


def spread(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return whole tensors as a model has them: shared out where its own are."""
    mine = model.state_dict()
    return {key: _as(value, mine[key]) if key in mine else value for key, value in state.items()}


def spread_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimiser's whole state with the tensors of each parameter shared out as the parameter is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not any(map(_is_shared, parameters)):
        return dict(state)
    kept = copy.copy(dict(state))
    kept["state"] = {
        place: {
            key: _as(value, parameters[place])
            if isinstance(value, Tensor) and value.shape == parameters[place].shape and value.ndim
            else value
            for key, value in values.items()
        }
        for place, values in state["state"].items()
    }
    return kept


def _as(value: Tensor, like: Tensor) -> Tensor:
    if not _is_shared(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    shared: Any = like
    value = value.to(like.device, like.dtype)
    return distribute_tensor(value, shared.device_mesh, shared.placements, src_data_rank=None)


def _is_shared(tensor: Tensor) -> bool:
    return dist.is_available() and hasattr(tensor, "full_tensor")
