"""Train a linker: supervised with teacher forcing (SL) or by reinforcement (RL)."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor

from data_prep.reports.linker.batches import (
    DocumentBatch,
    EntityTable,
    Order,
    arrange,
    encode,
    stack,
)
from data_prep.reports.linker.dca import DynamicContext
from data_prep.reports.linker.documents import LinkDocument
from pneumonia.runtime.errors import TrainingError
from pneumonia.runtime.progress import Progress, report_progress

Evaluate = Callable[[DynamicContext], float]
_MAX_NORM = 4.0  # of the combining network's weights, after each supervised step
_DISCOUNT = 0.9
_SPLIT = 100  # longer documents are trained on in parts


class LinkerSettings(BaseModel):
    """Architecture and training settings of a linker.

    Attributes:
        local: Local model, `attention` or `cnn`.
        hops: 0 = local only, 1 = with linked entities, 2 = with their neighbours too.
        hard: Attention to the best 7 entities and 50 neighbours only, not to all.
        order: `offset` = as in the text, `size` = fewest candidates first, `random`.
        learn: `sl` = supervised, `rl` = reinforcement.
        advantage: In reinforcement, subtract the return of the greedy decisions (a baseline).
        warm_up: Supervised epochs before reinforcement, which needs a reasonable initial policy.
        epochs: Passes over the documents.
        patience: Epochs without a better validation score before training stops.
        batch_size: Documents per step.
        learning_rate: Learning rate of Adam; halved after half the patience without improvement.
        margin: Margin of the supervised loss.
        dimensions: Dimensions of word and entity vectors.
        seed: Seed of weights, order and sampled actions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    local: Literal["attention", "cnn"] = "attention"
    hops: Literal[0, 1, 2] = 2
    hard: bool = True
    order: Order = "offset"
    learn: Literal["sl", "rl"] = "sl"
    advantage: bool = True
    warm_up: int = Field(default=10, ge=0)
    epochs: PositiveInt = 40
    patience: PositiveInt = 15
    batch_size: PositiveInt = 16
    learning_rate: float = Field(default=2e-3, gt=0)
    margin: float = Field(default=0.01, gt=0)
    dimensions: int = Field(default=100, ge=4, le=1000)
    seed: int = Field(default=0, ge=0, lt=2**32)


def supervised_loss(scores: Tensor, batch: DocumentBatch, margin: float) -> Tensor:
    """Cross-entropy plus the published multi-class margin; mentions without gold do not count.

    The margin loss alone ranks candidates; with cross-entropy the softmax of the scores is the
    probability that the linker returns.
    """
    known = batch.gold >= 0
    if not known.any():
        return scores.sum() * 0
    scores, gold = scores[known], batch.gold[known]
    right = scores.gather(1, gold[:, None])
    short = (margin - right + scores).clamp(min=0) * batch.valid[known]
    short = short.scatter(1, gold[:, None], 0.0)
    return F.cross_entropy(scores, gold) + short.sum(dim=1).mean()


def mean_reward(chosen: Tensor, batch: DocumentBatch) -> Tensor:
    """(B, 1): mean over the mentions with gold of r = 0 if right, -1 if wrong.

    Args:
        chosen: int64 (B, T) places among the candidates.
        batch: With gold places.
    """
    known = batch.gold >= 0
    wrong = ((chosen != batch.gold) & known).sum(dim=1, keepdim=True)
    return -wrong / known.sum(dim=1, keepdim=True).clamp(min=1)


def reinforcement_loss(
    scores: Tensor, chosen: Tensor, batch: DocumentBatch, baseline: Tensor | float = 0.0
) -> Tensor:
    """REINFORCE: R_T = mean reward of the document - baseline, R_t = 0.9^(T-t) R_T.

    Args:
        scores: (B, T, C) at the time of each decision.
        chosen: (B, T) sampled places.
        batch: With gold places; mentions without gold neither act nor count.
        baseline: (B, 1) mean reward of other decisions on the same documents; 0 as published.
    """
    known = (batch.gold >= 0).to(scores.dtype)
    steps = known.sum(dim=1, keepdim=True)
    left = steps - known.cumsum(dim=1)  # decisions still to come
    returns = _DISCOUNT**left * (mean_reward(chosen, batch) - baseline)
    log_policy = scores.log_softmax(dim=2).gather(2, chosen[..., None])[..., 0]
    return -(log_policy * returns * known).sum() / steps.sum().clamp(min=1)


def train_model(
    model: DynamicContext,
    table: EntityTable,
    documents: Sequence[LinkDocument],
    config: LinkerSettings,
    evaluate: Evaluate,
    progress: Progress | None = None,
) -> float:
    """Train in place and keep the weights of the best validation.

    Args:
        documents: With gold; those without mentions are skipped.
        evaluate: The validation score of the model, larger is better.

    Returns:
        The best validation score.

    Raises:
        TrainingError: No document has a mention whose gold is among its candidates.
    """
    parts = [part for document in documents for part in _parts(document) if part.mentions]
    encoded = [encode(part, table) for part in parts]
    if not any(m.gold is not None for part in parts for m in part.mentions):
        raise TrainingError("No mention has a known code", fix="Train on coded reports")
    shuffle = np.random.default_rng(config.seed)
    draw = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    best, best_state, waited = -1.0, dict(model.state_dict()), 0
    for epoch in range(1, config.epochs + 1):
        model.train()
        for at in _batches(parts, config.batch_size, shuffle):
            orders = [arrange(parts[i], config.order, shuffle) for i in at]
            batch = stack([encoded[i] for i in at], table, orders)
            explore = config.learn == "rl" and epoch > config.warm_up
            _step(model, optimiser, batch, config, draw if explore else None)
        model.eval()
        score = evaluate(model)
        waited += 1
        if score > best:
            best, waited = score, 0
            best_state = {name: value.clone() for name, value in model.state_dict().items()}
        elif waited == config.patience // 2:
            for group in optimiser.param_groups:
                group["lr"] /= 2
        report_progress(progress, epoch, config.epochs, f"validation {best:.3f}")
        if waited >= config.patience:
            break
    model.load_state_dict(best_state)
    model.eval()
    return best


def _step(
    model: DynamicContext,
    optimiser: torch.optim.Optimizer,
    batch: DocumentBatch,
    config: LinkerSettings,
    draw: torch.Generator | None,
) -> None:
    """One step: supervised, or by reinforcement when there is a generator to draw actions from."""
    if draw is None:
        loss = supervised_loss(model.teach(batch), batch, config.margin)
    else:
        outcome = model.sample(batch, draw)
        baseline: Tensor | float = 0.0
        if config.advantage:
            with torch.no_grad():
                baseline = mean_reward(model(batch).chosen, batch)
        loss = reinforcement_loss(outcome.scores, outcome.chosen, batch, baseline)
    loss = loss + model.types.loss(batch)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    if draw is None:
        with torch.no_grad():
            for weight in model.join.parameters():
                norm = weight.norm()
                if norm > _MAX_NORM:
                    weight.mul_(_MAX_NORM / norm)


def _parts(document: LinkDocument) -> list[LinkDocument]:
    mentions = document.mentions
    return [
        document._replace(mentions=mentions[at : at + _SPLIT])
        for at in range(0, len(mentions), _SPLIT)
    ]


def _batches(
    parts: Sequence[LinkDocument], size: int, generator: np.random.Generator
) -> list[list[int]]:
    """Shuffled batches of documents of similar length, to limit padding."""
    noise = generator.random(len(parts))
    order = sorted(range(len(parts)), key=lambda i: (len(parts[i].mentions), noise[i]))
    groups = [order[at : at + size] for at in range(0, len(order), size)]
    return [groups[i] for i in generator.permutation(len(groups))]
