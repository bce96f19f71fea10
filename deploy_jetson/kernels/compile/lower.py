"""From a network description to a plan: steps in execution order, buffers in one arena."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from deploy_jetson.kernels.kinds.columns.chain import form_chains
from deploy_jetson.kernels.kinds.dots.fold import fold_rounding
from deploy_jetson.kernels.kinds.kind import Choice
from deploy_jetson.kernels.kinds.registry import kind_of
from deploy_jetson.kernels.plan.filters import filter_order
from deploy_jetson.kernels.plan.glue import BlockStep, GatherStep, InputStep, OutputStep
from deploy_jetson.kernels.plan.layer_problem import (
    LayerProblem,
    LayerQuantization,
    Weights,
    check_halves,
    problems_of,
)
from deploy_jetson.kernels.plan.memory import BufferLifetime, plan_memory
from deploy_jetson.kernels.plan.steps import ConvolutionStep, Step
from deploy_jetson.kernels.plan.supported import check_supported
from deploy_jetson.kernels.plan.tensors import (
    Buffer,
    ChannelView,
    Ints,
    concatenate,
    flatten,
    is_natural,
    vectors_of,
    view_of,
)
from deploy_jetson.kernels.targets import HALF, Target
from pneumonia.runtime.errors import ExportError
from pneumonia.runtime.model import layers
from pneumonia.runtime.model.spec import INPUT, NetworkSpec

Chooser = Callable[[LayerProblem], Choice]


class NetworkPlan(NamedTuple):
    """A network ready to be written as C."""

    spec: NetworkSpec  # the network
    target: Target  # the machine
    steps: tuple[Step, ...]  # in execution order
    problems: dict[str, LayerProblem]  # layer name -> its problem
    choices: dict[str, Choice]  # layer name -> its kernel choice
    arena_floats: int  # size of the activation memory
    storage: str = "fp32"  # how weights are stored


def lower(
    spec: NetworkSpec,
    dense: Mapping[str, Weights],
    target: Target,
    choose: Chooser,
    storage: str = "fp32",
    quantization: Mapping[str, LayerQuantization] | None = None,
) -> NetworkPlan:
    """Plan the whole network.

    Args:
        spec: Batch norm folded.
        dense: Tensors as in `tensor_shapes(spec)`.
        storage: See `weight_store.STORAGES`.
        quantization: Layer name -> its int8 weights; None: float32 throughout.

    Raises:
        ArtefactError, ExportError: see `problems_of`; or a layer the generator does not know.
    """
    check_supported(spec)
    problems = problems_of(spec, dense, storage, quantization)
    if target.number is HALF:
        check_halves(problems, "Generate for a target without float16 arithmetic")
    return _Lowering(spec, dense, target, choose, problems, storage).run()


class _Lowering:
    def __init__(
        self,
        spec: NetworkSpec,
        dense: Mapping[str, Weights],
        target: Target,
        choose: Chooser,
        problems: dict[str, LayerProblem],
        storage: str,
    ) -> None:
        self.spec, self.dense, self.target, self.choose = spec, dense, target, choose
        self.storage = storage
        self.shapes = spec.shapes()
        self.readers = spec.consumers()
        self.problems = problems
        self.layers = {layer.name: layer for layer in spec.layers}
        self.halo = self._halos()
        self.steps: list[Step] = []
        self.views: dict[str, ChannelView] = {}
        self.choices: dict[str, Choice] = {}
        self.fused = self._fused_sums()

    def run(self) -> NetworkPlan:
        self._input()
        for layer in self.spec.layers:
            self._lower(layer)
        for index, name in enumerate(self.spec.outputs):
            last = index == len(self.spec.outputs) - 1
            self.steps.append(OutputStep(name, self.views[name], index, last))
        outputs = frozenset(b for name in self.spec.outputs for b in self.views[name].buffers)
        self.steps = form_chains(fold_rounding(self.steps, outputs), outputs, self.target)
        floats = plan_memory(self._lifetimes())
        return NetworkPlan(
            self.spec, self.target, tuple(self.steps), self.problems, self.choices, floats,
            self.storage,
        )  # fmt: skip

    # --- decisions over the whole network --------------------------------------------------

    def _halos(self) -> dict[tuple[int, int], int]:
        """(height, width) -> widest padding of the convolutions that read maps of this size."""
        halo: dict[tuple[int, int], int] = defaultdict(int)
        for layer in self.spec.layers:
            if isinstance(layer, layers.Conv):
                size = self.shapes[layer.inputs[0]][1:]
                halo[size] = max(halo[size], *layers.pair(layer.padding))
        return halo

    def _fused_sums(self) -> dict[str, layers.Shortcut]:
        """Convolution -> the Shortcut of two inputs that is computed at its end, in registers."""
        position = {layer.name: i for i, layer in enumerate(self.spec.layers)}
        fused: dict[str, layers.Shortcut] = {}
        for layer in self.spec.layers:
            if not isinstance(layer, layers.Shortcut) or len(layer.inputs) != 2:
                continue
            last = max(layer.inputs, key=lambda name: position.get(name, -1))
            alone = self.readers.get(last) == [layer.name] and last not in self.spec.outputs
            if alone and isinstance(self.layers.get(last), layers.Conv):
                fused[last] = layer
        return fused

    def _feeds_sum(self, name: str) -> bool:
        """Whether channels must keep their order because a Shortcut adds the tensor to another."""
        for reader in self.readers[name]:
            layer = self.layers[reader]
            if isinstance(layer, layers.Shortcut):
                return True
            passes_on = isinstance(layer, (layers.Route, layers.Upsample, layers.MaxPool))
            if passes_on and self._feeds_sum(reader):
                return True
        return False

    def _lifetimes(self) -> list[BufferLifetime]:
        first: dict[Buffer, int] = {}
        last: dict[Buffer, int] = {}
        for index, step in enumerate(self.steps):
            for buffer in step.reads + step.writes:
                first.setdefault(buffer, index)
                last[buffer] = index
        return [BufferLifetime(buffer, first[buffer], last[buffer]) for buffer in first]

    # --- one layer -------------------------------------------------------------------------

    def _lower(self, layer: layers.Layer) -> None:
        if layer.name in self.views:  # a sum that was done by its convolution
            return
        sources = [self.views[name] for name in layer.inputs]
        if isinstance(layer, (layers.Conv, layers.Linear)):
            self._convolution(layer, sources[0])
        elif isinstance(layer, layers.Route):
            self.views[layer.name] = self._route(layer, sources)
        elif isinstance(layer, layers.Detect):
            self.views[layer.name] = sources[0]
        elif isinstance(layer, layers.Flatten):
            self.views[layer.name] = flatten(sources[0])
        elif isinstance(layer, layers.Shortcut):
            self._sum(layer, sources)
        elif isinstance(layer, layers.Upsample):
            self._blockwise(layer, "run_upsample", sources, window=(1, layer.scale, 0))
        elif isinstance(layer, layers.MaxPool):
            kernel, stride, begin = layer.kernel, layer.stride, layer.pad_begin
            window = (layers.pair(kernel)[0], layers.pair(stride)[0], layers.pair(begin)[0])
            self._blockwise(layer, "run_max_pool", sources, window=window)
        elif isinstance(layer, layers.GlobalAvgPool):
            self._blockwise(layer, "run_average", sources)
        else:
            raise ExportError(
                "The generator does not know this kind of layer", found=type(layer).__name__,
                where=f"layer {layer.name!r}",
            )  # fmt: skip

    def _buffer(self, name: str, blocks: int, height: int, width: int) -> Buffer:
        return Buffer(name, blocks, height, width, self.halo[height, width], self.target.lanes)

    def _input(self) -> None:
        channels, height, width = self.shapes[INPUT]
        buffer = Buffer(INPUT, channels, height, width, self.halo[height, width], 1)
        self.steps.append(InputStep(buffer))
        self.views[INPUT] = view_of(buffer, channels)

    def _convolution(self, layer: layers.Conv | layers.Linear, view: ChannelView) -> None:
        problem = self.problems[layer.name]
        choice = self.choices[layer.name] = self.choose(problem)
        n_filters, height, width = self.shapes[layer.name]
        order = np.arange(n_filters, dtype=np.int64)
        fused = self.fused.get(layer.name)
        if fused is None and not self._feeds_sum(layer.name):
            order = filter_order(problem.weight.reshape(n_filters, -1))
        skip = None
        if fused is not None:
            other = fused.inputs[0] if fused.inputs[1] == layer.name else fused.inputs[1]
            skip = self._natural(layer.name, self.views[other]).buffers[0]
        out = self._buffer(layer.name, -(-n_filters // self.target.lanes), height, width)
        bias = self.dense[layer.name + ".bias"] if layer.bias else np.zeros(n_filters, np.float32)
        after = fused.activation if fused else "linear"
        base = ConvolutionStep(problem, bias, view, out, order, skip, after)
        self.steps += kind_of(choice).steps(choice, base, self.target)
        self.views[layer.name] = view_of(out, n_filters, order)
        if fused:
            self.views[fused.name] = self.views[layer.name]

    def _natural(self, name: str, view: ChannelView) -> ChannelView:
        """The view if it is one buffer in channel order, else that of a copy."""
        if is_natural(view, self.target.lanes):
            return view
        blocks = -(-view.channels // self.target.lanes)
        out = self._buffer(name, blocks, view.height, view.width)
        self.steps.append(GatherStep(name, view, out))
        return view_of(out, view.channels)

    def _route(self, layer: layers.Route, sources: list[ChannelView]) -> ChannelView:
        if len({view[3:] for view in sources}) > 1:  # the planar input beside blocked tensors
            sources = [self._natural(layer.name, view) for view in sources]
        return concatenate(sources)

    def _sum(self, layer: layers.Shortcut, sources: list[ChannelView]) -> None:
        plain = [self._natural(layer.name, view) for view in sources]
        self._blockwise(layer, "run_sum", plain, act=layer.activation)

    def _blockwise(
        self,
        layer: layers.Layer,
        run: str,
        sources: list[ChannelView],
        act: str = "linear",
        window: tuple[int, int, int] = (1, 1, 0),
    ) -> None:
        lanes = self.target.lanes
        if any(view.pixel != lanes for view in sources):
            sources = [self._natural(layer.name, view) for view in sources]
        grouped = [(view, vectors_of(view, lanes)) for view in sources]
        blocks = grouped[0][1]
        _, height, width = self.shapes[layer.name]
        out = self._buffer(layer.name, len(blocks.buffer_of), height, width)
        self.steps.append(BlockStep(layer.name, run, tuple(grouped), out, act, window))
        self.views[layer.name] = _mirrored(sources[0], blocks.block_of, blocks.lane_of, out)


def _mirrored(view: ChannelView, block_of: Ints, lane_of: Ints, out: Buffer) -> ChannelView:
    """Channels in `out` in the vectors and lanes they have in `view`."""
    return ChannelView(
        (out,), np.zeros(view.channels, np.int64), block_of * out.block + out.inner + lane_of,
        out.height, out.width, out.row, out.lanes,
    )  # fmt: skip
