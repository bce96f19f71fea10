"""Several processes, one result: torchrun starts them, these few functions join them.

Every process holds the same weights. It computes the gradient of its share of the batch, divided
by counts over the whole batch; the gradients are then summed. No wrapper module is involved.
"""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

# The first process validates while the others wait at the next exchange.
TIMEOUT = datetime.timedelta(hours=2)


def rank() -> int:
    """Number of this process, 0 when there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes files and validates."""
    return rank() == 0


def started_as_first() -> bool:
    """Whether torchrun (or the shell) started this process as the first; before any group."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def process_group() -> Iterator[None]:
    """Join the group torchrun describes in the environment; nothing without torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1 or dist.is_initialized():
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def total(count: float, device: torch.device) -> float:
    """Sum of a number over all processes."""
    if world_size() == 1:
        return count
    value = torch.tensor(count, dtype=torch.float64, device=device)
    dist.all_reduce(value)
    return float(value)


def broadcast_numbers(values: list[float], device: torch.device) -> list[float]:
    """The first process's numbers, on every process; lists must be equally long."""
    if world_size() == 1:
        return values
    shared = torch.tensor(values, dtype=torch.float64, device=device)
    dist.broadcast(shared, src=0)
    return [float(value) for value in shared]


def _all_reduce_flat(tensors: list[Tensor]) -> None:
    """Sum equally shaped tensors of all processes in one exchange, in place."""
    if not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def sum_gradients(network: nn.Module) -> None:
    """Replace every gradient by its sum over the processes."""
    if world_size() > 1:
        _all_reduce_flat([p.grad for p in network.parameters() if p.grad is not None])


def average_buffers(network: nn.Module) -> None:
    """Replace batch-norm statistics by their mean over the processes."""
    if world_size() > 1:
        buffers = [b for b in network.buffers() if b.is_floating_point()]
        _all_reduce_flat(buffers)
        for buffer in buffers:
            buffer.div_(world_size())


def copy_from_first(network: nn.Module) -> None:
    """Give every process the first one's weights and buffers."""
    if world_size() > 1:
        with torch.no_grad():
            for tensor in network.state_dict().values():
                dist.broadcast(tensor, src=0)
