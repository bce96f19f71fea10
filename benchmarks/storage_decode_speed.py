"""How fast each storage format decodes to dense, and its size, at equal kept weights.

    python -m benchmarks.storage_decode_speed [--rows 512] [--columns 4608] [--rate 16]

Decoding in NumPy as the runtime does it: a model is loaded once, so this is load time, not latency.
Block-CSR (4 x 4 blocks) is the comparison that keeps whole blocks.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from pneumonia.compression.methods.block import DensityAdaptiveBlocks
from pneumonia.compression.methods.irregular import Irregular
from pneumonia.runtime.sparse_layouts import LAYOUTS

BLOCK = 4


def fastest(run: Callable[[], object], repeats: int = 7) -> float:
    """Seconds of process time of the fastest of several runs."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return max(min(times), 1e-9)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--columns", type=int, default=4608)
    parser.add_argument("--rate", type=float, default=16)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (options.rows, options.columns)
    scales = rng.lognormal(0, 0.85, (shape[0], 1))
    v = torch.from_numpy((rng.normal(size=shape) * scales).astype(np.float32))
    n_keep = round(v.numel() / options.rate)
    sparse = {"darb": DensityAdaptiveBlocks(n_keep)}
    print(f"{shape[0]} x {shape[1]}, {n_keep} weights kept")
    print("format       weights/us   bits/weight   energy kept")
    total = float(v.double().square().sum())
    for name, layout in LAYOUTS.items():
        z = sparse.get(name, Irregular(n_keep)).project(v).z
        values, arrays = layout.encode(z.numpy())
        assert np.array_equal(layout.decode(values, arrays, shape), z.numpy())

        def decode(layout=layout, values=values, arrays=arrays) -> object:
            return layout.decode(values, arrays, shape)

        size = values.nbytes + sum(array.nbytes for array in arrays.values())
        show(
            name,
            n_keep / fastest(decode),
            8 * size / n_keep,
            float(z.double().square().sum()) / total,
        )
    kept, values = block_csr(v.numpy(), n_keep)
    seconds = fastest(lambda: decode_blocks(kept, values, shape))
    size = values.nbytes + 2 * len(kept) + 4 * (shape[0] // BLOCK + 1)
    show("block-csr", n_keep / seconds, 8 * size / n_keep, float(np.square(values).sum()) / total)


def show(name: str, per_second: float, bits: float, energy: float) -> None:
    print(f"{name:12s} {per_second / 1e6:10.1f} {bits:13.2f} {energy:13.3f}")


if __name__ == "__main__":
    main()
