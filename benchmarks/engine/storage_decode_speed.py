"""How fast each storage format decodes to dense, and its size, at equal kept weights.

    python -m benchmarks.engine.storage_decode_speed [--rows 512] [--columns 4608] [--rate 16]

Writes benchmarks/results/storage_decode_speed.json; speeds are over CSR's in the same run, all
formats in turn. Decoding in NumPy as the runtime does it: a model is loaded once, so this is load
time, not latency. Block-CSR (4 x 4 blocks) is the comparison that keeps whole blocks.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import processor
from pneumonia.compression.sets.block import BlockMax, DensityAdaptiveBlocks
from pneumonia.compression.sets.constraint import Constraint
from pneumonia.compression.sets.irregular import Irregular
from pneumonia.runtime.storage.sparse_layouts import LAYOUTS

BLOCK = 4
RESULTS = Path(__file__).parents[1] / "results" / "storage_decode_speed.json"


class Case(NamedTuple):
    """A matrix in one format.

    Attributes:
        decode: Gives the dense matrix back.
        bits_per_weight: Of values and indices, over the kept weights.
        energy_kept: Share of the dense matrix's energy that this set of weights keeps.
    """

    decode: Callable[[], np.ndarray]
    bits_per_weight: float
    energy_kept: float


def fastest(cases: Mapping[str, Case], rounds: int) -> dict[str, float]:
    """Seconds of process time of the fastest of several runs, all formats in turn."""
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(rounds):
        for name, case in cases.items():
            start = time.process_time()
            case.decode()
            best[name] = min(best[name], time.process_time() - start)
    return best


def block_csr(matrix: np.ndarray, n_keep: int) -> tuple[np.ndarray, np.ndarray]:
    """Best whole blocks: (block numbers, values (n, 4, 4))."""
    tiles = matrix.reshape(matrix.shape[0] // BLOCK, BLOCK, -1, BLOCK).transpose(0, 2, 1, 3)
    energy = np.square(tiles).sum(axis=(2, 3)).ravel()
    kept = np.sort(np.argsort(-energy)[: n_keep // BLOCK**2])
    return kept, tiles.reshape(-1, BLOCK, BLOCK)[kept]


def decode_blocks(kept: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    tiles = np.zeros((shape[0] // BLOCK * (shape[1] // BLOCK), BLOCK, BLOCK), np.float32)
    tiles[kept] = values
    wide = tiles.reshape(shape[0] // BLOCK, shape[1] // BLOCK, BLOCK, BLOCK)
    return wide.transpose(0, 2, 1, 3).reshape(shape)


def cases_of(v: Tensor, n_keep: int) -> dict[str, Case]:
    """Every format with the set it is made for, all of n_keep weights at most."""
    shape, total = (v.shape[0], v.shape[1]), float(v.double().square().sum())
    found = {}
    sets: list[tuple[str, str, Constraint]] = [
        (name, name, Irregular(n_keep)) for name in ("csr", "relative", "bitmap")
    ]
    sets += [
        ("darb", "darb", DensityAdaptiveBlocks(n_keep)),
        ("bmwm", "darb", BlockMax(int(np.log2(v.numel() / n_keep)))),
    ]
    for label, layout_name, constraint in sets:
        layout = LAYOUTS[layout_name]
        z = constraint.project(v).z.numpy()
        values, arrays = layout.encode(z)
        assert np.array_equal(layout.decode(values, arrays, shape), z)
        n_bytes = values.nbytes + sum(array.nbytes for array in arrays.values())
        found[label] = Case(
            partial(layout.decode, values, arrays, shape), 8 * n_bytes / n_keep,
            float(np.square(z, dtype=np.float64).sum()) / total,
        )  # fmt: skip
    kept, blocks = block_csr(v.numpy(), n_keep)
    n_bytes = blocks.nbytes + 2 * len(kept) + 4 * (shape[0] // BLOCK + 1)
    energy = float(np.square(blocks, dtype=np.float64).sum()) / total
    found["block-csr"] = Case(
        partial(decode_blocks, kept, blocks, shape), 8 * n_bytes / n_keep, energy
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--columns", type=int, default=4608)
    parser.add_argument("--rate", type=float, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    scales = rng.lognormal(0, 0.85, (options.rows, 1))
    weights = rng.normal(size=(options.rows, options.columns)) * scales
    v = torch.from_numpy(weights.astype(np.float32))
    n_keep = round(v.numel() / options.rate)
    cases = cases_of(v, n_keep)
    seconds = fastest(cases, options.rounds)
    print(f"{v.shape[0]} x {v.shape[1]}, {n_keep} weights kept")
    print("format       weights/us   of CSR   bits/weight   energy kept")
    rows = []
    for name, case in cases.items():
        row = {
            "format": name, "weights_per_us": round(n_keep / seconds[name] / 1e6, 1),
            "speed_over_csr": round(seconds["csr"] / seconds[name], 2),
            "bits_per_weight": round(case.bits_per_weight, 2),
            "energy_kept": round(case.energy_kept, 3),
        }  # fmt: skip
        rows.append(row)
        print(
            f"{name:12s} {row['weights_per_us']:10} {row['speed_over_csr']:8}"
            f" {row['bits_per_weight']:13} {row['energy_kept']:13}"
        )
    record = {
        "torch": torch.__version__, "numpy": np.__version__, "processor": processor(),
        "shape": list(v.shape), "rate": options.rate, "rounds": options.rounds, "formats": rows,
    }  # fmt: skip
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
