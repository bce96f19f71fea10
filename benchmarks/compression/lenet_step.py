"""LeNet-5's forward and backward pass in C, which skips pruned weights (`lenet_step.c`).

    python -m benchmarks.compression.lenet_step

A network of 2,000 weights leaves PyTorch's kernels mostly idle: this pass is several times as fast
there. It is compiled when first used; without a C compiler, and for any other network, jobs train
with PyTorch. The command compares gradients and CPU time with PyTorch's on a random network of
1,700 weights.
"""

import ctypes
import functools
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pneumonia.network.module import Network, initialise
from pneumonia.network.zoo import build
from pneumonia.runtime.model.layers import Conv, Linear

SOURCE = Path(__file__).with_suffix(".c")
LANES = 16
MOST_WEIGHTS = 60_000  # stored densely; PyTorch is faster on larger networks


@functools.cache
def compiled(source: Path) -> ctypes.CDLL | None:
    """The library of a C file; None without a C compiler."""
    built = Path(tempfile.mkdtemp(prefix=f"{source.stem}-")) / f"{source.stem}.so"
    command = [os.environ.get("CC", "cc"), "-O3", "-march=native", "-ffast-math", "-shared"]
    try:
        subprocess.run([*command, "-fPIC", str(source), "-o", str(built), "-lm"], check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return ctypes.CDLL(str(built))


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled passes; None without a C compiler."""
    found = compiled(SOURCE)
    if found is not None:
        found.work_bytes.restype = ctypes.c_size_t
    return found


def _pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


class LenetStep(torch.autograd.Function):
    """Logits (N, K) of images (N, 1, 28, 28), N a multiple of 16, and gradients of the weights."""

    @staticmethod
    def forward(ctx, images: Tensor, every: bool, *values: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        """`values`: weight and bias of the four layers; `every`: gradients of zero weights too."""
        code = library()
        assert code is not None
        values = tuple(value.detach().contiguous() for value in values)
        images = images.contiguous()
        n, sizes = len(images), [len(weight) for weight in values[::2]]
        work = torch.empty(code.work_bytes(n, *sizes[:3]) // 4 + LANES, dtype=torch.float32)
        work = work[-(work.data_ptr() // 4) % LANES :]  # from an address that 64 divides
        logits = torch.empty(n, sizes[3])
        code.forward(n, *sizes, int(every), *_pointers(images, *values, work, logits))
        ctx.work, ctx.values, ctx.every = work, values, every
        return logits

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def, override]
        """Gradients of the weights from the gradient of the logits."""
        code = library()
        assert code is not None
        gradients = [torch.empty_like(value) for value in ctx.values]
        sizes = [len(weight) for weight in ctx.values[::2]]
        given = (*ctx.values[::2], ctx.work, gradient.contiguous(), *gradients)
        code.backward(len(gradient), *sizes, int(ctx.every), *_pointers(*given))
        return None, None, *gradients


def is_lenet(network: Network) -> bool:
    """Whether the network is a LeNet-5 on 28 x 28 grey images, and the C code is there."""
    layers = network.spec.weighted()
    kinds = [type(layer) for layer in layers] == [Conv, Conv, Linear, Linear]
    grey = network.spec.input.channels == 1 and network.spec.input.width == 28
    parameters = list(network.parameters())
    small = len(parameters) == 8 and sum(p.numel() for p in parameters) <= MOST_WEIGHTS
    return kinds and grey and small and library() is not None


def lenet_logits(network: Network, images: Tensor, *, every: bool) -> Tensor:
    """Logits of a network that `is_lenet` accepts; `every`: also gradients of zero weights."""
    return LenetStep.apply(images, every, *network.parameters())  # type: ignore[no-any-return]


def main() -> None:
    torch.set_num_threads(1)
    network = Network(build("lenet5", width=0.2))
    initialise(network, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.weights().values():
            weight.mul_(torch.rand(weight.shape, generator=generator) < 0.1)
    images = torch.randn(256, 1, 28, 28, generator=generator)
    labels = torch.randint(0, 10, (256,), generator=generator)
    kept = [parameter.detach() != 0 for parameter in network.parameters()]

    def step(logits: Callable[[], Tensor]) -> list[Tensor]:
        network.zero_grad()
        F.cross_entropy(logits(), labels).backward()
        return [(p.grad * mask).clone() for p, mask in zip(network.parameters(), kept, strict=True)]

    output = network.spec.outputs[0]
    passes = (
        lambda: network(images)[output].flatten(1),
        lambda: lenet_logits(network, images, every=False),
    )
    of_torch, of_c = (step(logits) for logits in passes)
    for a, b in zip(of_torch, of_c, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    seconds = [0.0, 0.0]
    for _ in range(30):
        for number, logits in enumerate(passes):
            begin = time.process_time()
            step(logits)
            seconds[number] += time.process_time() - begin
    n_weights = sum(int(mask.sum()) for mask in kept)
    print(
        f"{n_weights} parameters: gradients agree, {seconds[0] / seconds[1]:.1f} times as fast as "
        f"PyTorch ({30 * len(images) / seconds[1]:,.0f} images per second of CPU)"
    )


if __name__ == "__main__":
    main()
