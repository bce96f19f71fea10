"""Optimisers, the learning-rate schedule, and their state as named tensors."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pneumonia.network.module import Network
from pneumonia.runtime.errors import ArtefactError
from pneumonia.training.config import OptimiserConfig, ScheduleConfig


def make_optimiser(network: Network, config: OptimiserConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over two groups: weights of convolutions and linear layers, and the rest.

    Only the first group decays: shrinking a batch norm's scale or a bias regularises nothing.
    """
    weights = list(network.weights().values())
    known = {id(weight) for weight in weights}
    others = [p for p in network.parameters() if id(p) not in known]
    groups: list[dict[str, object]] = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "sgd":
        return torch.optim.SGD(
            groups,
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
            fused=True,
        )
    betas = (config.momentum, 0.999)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)


def learning_rate(step: int, steps_per_epoch: int, epochs: int, config: ScheduleConfig) -> float:
    """Share of the peak learning rate at a step, a pure function so that a resume needs no state.

    Args:
        step: From 0.
        steps_per_epoch: Optimiser steps of an epoch.
        epochs: Of the whole run.

    Returns:
        (step + 1) / warm-up steps during the warm-up, then from 1 along half a cosine to
        `final_fraction` at the last step.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / warmup
    last = steps_per_epoch * epochs - 1
    done = min(1.0, (step - warmup) / max(1, last - warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return config.final_fraction + (1 - config.final_fraction) * cosine


def set_learning_rate(optimiser: torch.optim.Optimizer, value: float) -> None:
    """One learning rate for every group."""
    for group in optimiser.param_groups:
        group["lr"] = value


def optimiser_state(network: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`parameter name/state name` -> tensor, for example `blocks.0.conv.weight/exp_avg`."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": torch.as_tensor(value)
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
        if value is not None
    }


def load_optimiser_state(
    network: nn.Module, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Restore the tensors returned by `optimiser_state`.

    Raises:
        ArtefactError: A tensor belongs to no parameter or has another shape.
    """
    parameters = dict(network.named_parameters())
    for key, tensor in tensors.items():
        name, _, slot = key.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or (tensor.ndim and tensor.shape != parameter.shape):
            raise ArtefactError(
                "Optimiser state does not fit the network",
                expected="a tensor for each parameter",
                found=f"{tuple(tensor.shape)}",
                where=f"tensor {key!r}",
            )
        # Each takes its parameter's memory format, as it has it in an uninterrupted run.
        state = torch.empty_like(parameter) if tensor.ndim else tensor.new_empty(())
        optimiser.state[parameter][slot] = state.detach().to(parameter.device).copy_(tensor)
