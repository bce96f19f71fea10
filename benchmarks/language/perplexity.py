"""Perplexity of an LSTM language model against the pruning rate, for four sets of weights.

    python -m benchmarks.language.perplexity [--work runs/language] [--minutes 10]

Two LSTM layers of 128 units learn text of `benchmarks.language.grammar`. The four matrices of
the LSTM are pruned by ADMM and trained again inside their masks: block-max (one weight of each
block of a row), DARB (a block size for each row), whole blocks of 8 x 8 weights, and single
weights. It is a module that `from_torch` does not describe: `ModuleCompression` prunes it. Every
finished point is kept under --work and not run again; then results/language_model.json, its picture
and the page of `benchmarks.compression.tables` are written. About 3 minutes on one core.
"""

import copy
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pneumonia
from benchmarks.compression.page import LANGUAGE, write_tables
from benchmarks.language.grammar import Text, text
from benchmarks.reporting import argument_parser, write_results
from pneumonia.compression.admm.any_module import match_parameters
from pneumonia.compression.sets.block import BlockMax, DensityAdaptiveBlocks
from pneumonia.compression.sets.constraint import Constraint
from pneumonia.compression.sets.crossbar import Blocks
from pneumonia.compression.sets.units import Irregular
from pneumonia.runtime.storage.sparse_layouts import LAYOUTS

HIDDEN, EMBEDDED = 128, 32
LENGTH, BATCH = 32, 32  # tokens of a segment, segments of a step
DENSE_STEPS, ADMM_STEPS, RETRAIN_STEPS, UPDATES = 1200, 120, 180, 20
LEARNING_RATE, RHO = 4e-3, (0.1, 1.0, 10.0)
TILE = 8
RATES = (8, 32, 2, 16, 4)  # in the order in which they are run
PRUNED = "lstm.weight*"


class LanguageModel(nn.Module):
    """Logits (B, T, V) of the next token from tokens (B, T)."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, EMBEDDED)
        self.lstm = nn.LSTM(EMBEDDED, HIDDEN, num_layers=2, batch_first=True)
        self.output = nn.Linear(HIDDEN, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the token after each."""
        return self.output(self.lstm(self.embedding(tokens))[0])  # type: ignore[no-any-return]


class Method(NamedTuple):
    """A set of weights."""

    make: Callable[[Tensor, int], Constraint]  # weight and rate -> its constraint
    layout: str  # format of `runtime.storage` that stores it


METHODS = {
    "block-max": Method(lambda w, rate: BlockMax(rate.bit_length() - 1), "darb"),
    "DARB": Method(lambda w, rate: DensityAdaptiveBlocks(w.numel() // rate), "darb"),
    "blocks of 8 x 8": Method(
        lambda w, rate: Blocks(max(1, w.numel() // rate // TILE**2), TILE, TILE), "bitmap"
    ),
    "irregular": Method(lambda w, rate: Irregular(w.numel() // rate), "relative"),
}


def segments(tokens: np.ndarray) -> Tensor:
    """Tokens as segments with the token that follows each: int64 (N, LENGTH + 1)."""
    n = (len(tokens) - 1) // LENGTH
    starts = np.arange(n)[:, None] * LENGTH
    return torch.from_numpy(tokens[starts + np.arange(LENGTH + 1)])


@torch.inference_mode()
def perplexity(model: LanguageModel, part: Tensor) -> float:
    """Perplexity of segments (N, LENGTH + 1), each read from an empty state."""
    total = sum(
        float(F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten(),
                              reduction="sum"))
        for batch in part.split(256)
    )  # fmt: skip
    return math.exp(total / (part.shape[0] * LENGTH))


def train(
    model: LanguageModel, part: Tensor, n_steps: int, seed: int,
    after_step: Callable[[int, float], None] = lambda step, rate: None,
) -> None:  # fmt: skip
    """Adam with a warm-up and half a cosine; `after_step` gets the step and its learning rate."""
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    for step, batch in zip(range(n_steps), batches(part, seed), strict=False):
        rate = LEARNING_RATE * min(1.0, (step + 1) / 50) * 0.5
        rate *= 1.02 + math.cos(math.pi * step / n_steps)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        logits = model(batch[:, :-1]).flatten(0, 1)
        F.cross_entropy(logits, batch[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        after_step(step + 1, rate)


def batches(part: Tensor, seed: int) -> Iterator[Tensor]:
    """Segments in random order, for ever."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(part), generator=generator)
        yield from (part[batch] for batch in order[: len(part) // BATCH * BATCH].split(BATCH))


def pruned(model: LanguageModel, method: Method, rate: int, part: Tensor) -> float:
    """Prune in place by ADMM, train inside the masks; the rate reached."""
    constraints = match_parameters(model, PRUNED, lambda w: method.make(w, rate))
    plan = pneumonia.ModuleCompression(model, constraints, RHO[0])
    plan.start()

    def pull(step: int, learning_rate: float) -> None:
        plan.pull(learning_rate)
        if step % (ADMM_STEPS // UPDATES) == 0:
            plan.update()
            now = RHO[min(len(RHO) * step // ADMM_STEPS, len(RHO) - 1)]
            if now != plan.engine.rho:
                plan.set_rho(now)

    train(model, part, ADMM_STEPS, 1, pull)
    plan.harden()
    train(model, part, RETRAIN_STEPS, 2, lambda step, learning_rate: plan.hold())
    return plan.rate()


def stored(model: LanguageModel, layout: str) -> tuple[int, float]:
    """Bytes of the pruned matrices with indices, and CPU time to decode them all in ms."""
    n_bytes, seconds = 0, 0.0
    for name, weight in model.named_parameters():
        if not name.startswith(PRUNED.rstrip("*")):
            continue
        matrix = weight.detach().numpy()
        values, arrays = LAYOUTS[layout].encode(matrix)
        n_bytes += values.astype(np.float32).nbytes + sum(a.nbytes for a in arrays.values())
        begin = time.process_time()
        for _ in range(10):
            decoded = LAYOUTS[layout].decode(values, arrays, matrix.shape)
        seconds += (time.process_time() - begin) / 10
        np.testing.assert_array_equal(decoded, matrix)
    return n_bytes, 1000 * seconds


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/language"))
    parser.add_argument("--minutes", type=float, default=1e9, help="start no point after so long")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    train_text, test_text = text(400_000, seed=1), text(60_000, seed=2)
    part, test = segments(train_text.tokens), segments(test_text.tokens)
    dense, file = LanguageModel(train_text.vocabulary), options.work / "dense.pt"
    if not file.is_file():
        torch.manual_seed(0)
        dense = LanguageModel(train_text.vocabulary)
        train(dense, part, DENSE_STEPS, 0)
        torch.save(dense.state_dict(), file)
    dense.load_state_dict(torch.load(file))
    for rate, (name, method) in itertools.product(RATES, METHODS.items()):
        point = options.work / f"{name.replace(' ', '-')}-{rate}.json"
        if point.is_file() or time.perf_counter() - begin > 60 * options.minutes:
            continue
        cpu, model = time.process_time(), copy.deepcopy(dense)
        reached = pruned(model, method, rate, part)
        cpu = time.process_time() - cpu
        n_bytes, decode_ms = stored(model, method.layout)
        row = {
            "method": name, "rate": round(reached, 2),
            "perplexity": round(perplexity(model, test), 4), "bytes": n_bytes,
            "layout": method.layout, "decode_ms": round(decode_ms, 3), "cpu_seconds": round(cpu, 1),
        }  # fmt: skip
        print(row, flush=True)
        point.write_text(json.dumps(row) + "\n")
    write_page(options.work, dense, test_text, perplexity(dense, test))


def write_page(work: Path, dense: LanguageModel, test: Text, of_dense: float) -> None:
    """The JSON file and the page."""
    files = [work / f"{m.replace(' ', '-')}-{rate}.json" for m in METHODS for rate in sorted(RATES)]
    n_weights = sum(
        w.numel() for n, w in dense.named_parameters() if n.startswith(PRUNED.rstrip("*"))
    )
    found = {
        "weights": n_weights, "vocabulary": test.vocabulary, "test_tokens": len(test.tokens),
        "perplexity_of_grammar": round(test.perplexity, 4),
        "perplexity_of_dense": round(of_dense, 4),
        "steps": {"dense": DENSE_STEPS, "admm": ADMM_STEPS, "retrain": RETRAIN_STEPS},
        "points": [json.loads(file.read_text()) for file in files if file.is_file()],
    }  # fmt: skip
    write_results(LANGUAGE, found)
    write_tables(Path("runs/tables"))


if __name__ == "__main__":
    main()
