"""`from_torch`: a torch module as a network of this package, with the same inputs and outputs."""

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from pneumonia.network.module import Network, check_module
from pneumonia.network.torch_import.fuse import fuse
from pneumonia.network.torch_import.graph import (
    TracedModule,
    check_one_input,
    input_shape,
    module_path,
    trace,
)
from pneumonia.network.torch_import.layouts import (
    Dim,
    LayerView,
    UnknownPartError,
    from_layout,
    to_layout,
)
from pneumonia.runtime.engines.comparison import relative_error
from pneumonia.runtime.errors import SpecError
from pneumonia.runtime.model.spec import INPUT, InputSpec, NetworkSpec

log = logging.getLogger(__name__)

TOLERANCE = 1e-6  # of an output's largest value, in float64
NORM_STATISTICS = ("running_mean", "running_var")
FLOAT32_TOLERANCE = 1e-4  # where the module runs in float32 only


class TorchInterface(NamedTuple):
    """What the original module takes and returns."""

    input_dims: tuple[Dim, ...]  # how its input lies over (C, H, W)
    outputs: tuple[LayerView, ...]  # its outputs, flat: layer and how they lie
    structure: pytree.TreeSpec  # tuples, lists and dicts around them
    # layer -> paths of the modules it came from: `layer`, `norm`, `activation`
    names: Mapping[str, Mapping[str, str]]


class ImportedNetwork(Network):
    """A network that takes and returns what the original torch module did.

    Attributes:
        interface: What the original module takes and returns.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        tensors: Mapping[str, Tensor],
        interface: TorchInterface,
        modules: Mapping[str, nn.Module],
    ) -> None:
        super().__init__(spec, tensors, modules)
        self.interface = interface
        self.opaque_modules = dict(modules)
        self._sizes = spec.shapes()

    def forward(self, x: Tensor) -> Any:
        """Run it on the original's input; the batch may have any size.

        Floats of another type are converted to that of the network's weights, as its outputs are.
        """
        weight = next(self.parameters(), None)
        if weight is not None and x.is_floating_point():
            x = x.to(weight.dtype)
        values = super().forward(from_layout(x, self.interface.input_dims, self._sizes[INPUT]))
        flat = [
            to_layout(values[view.layer].reshape(-1, *self._sizes[view.layer]), view.dims)
            for view in self.interface.outputs
        ]
        return pytree.tree_unflatten(flat, self.interface.structure)

    def resized(self, spec: NetworkSpec, tensors: Mapping[str, Tensor]) -> Self:
        """The same interface around another network, for example a compacted one.

        It has copies of the opaque modules: nothing is shared with this network.
        """
        return type(self)(spec, tensors, self.interface, copy.deepcopy(self.opaque_modules))


def from_torch(
    module: nn.Module,
    example_input: Tensor,
    opaque: Sequence[str] = (),
    name: str = "",
    keep_unknown: bool = False,
) -> ImportedNetwork:
    """Describe a torch module as a network that can be pruned, compacted and exported.

    The module is exported with `torch.export`, translated op by op, and compared with the result in
    float64 on the example. Dropout is left out. The module itself is not changed.

    Args:
        module: Any module of one input whose ops are understood (docs/how-to/prune-your-own.md).
        example_input: Floats (N, C, H, W), (N, C, L) or (N, n); sizes but N are fixed by it. The
            network is float32, whatever the type of the module's weights.
        opaque: Globs of paths of submodules to keep whole (a string is one glob); channels at their
            borders are protected.
        name: Of the network; the module's class by default.
        keep_unknown: Keep whole every submodule that is not understood, with a warning in the log
            that names it; `opaque_modules` of the result lists them.

    Returns:
        A network that takes and returns what the module does; trainable, with its own weights.

    Raises:
        ConfigError: It is not a torch module, or has no values yet.
        SpecError: The module does not run on the example, an op is not understood, a glob of
            `opaque` matches nothing, the outputs differ, or weights or outputs are not finite
            numbers; names the module's path.
    """
    module = getattr(module, "_orig_mod", module)  # of torch.compile
    check_module(module)
    input_shape(example_input)
    opaque = (opaque,) if isinstance(opaque, str) else tuple(opaque)
    _check_opaque(module, opaque)
    original = copy.deepcopy(module).cpu().float().eval()
    _check_finite(original.named_parameters())
    statistics = [x for x in original.named_buffers() if x[0].endswith(NORM_STATISTICS)]
    _check_finite(statistics)  # other buffers may be infinite, as masks are
    example = _distinct_images(example_input.detach().cpu().float())
    _check_runs(original, example)
    with torch.no_grad():
        tracing = _trace_known if keep_unknown else trace
        traced = tracing(original, example, opaque)
    network, seen = _network(traced, name or type(module).__name__)
    _verify(original, network, traced, seen, example)
    return network.train(module.training)


def _check_opaque(module: nn.Module, opaque: Sequence[str]) -> None:
    paths = [path for path, _ in module.named_modules() if path]
    for glob in opaque:
        if not any(fnmatchcase(path, glob) for path in paths):
            raise SpecError(
                "Pattern of `opaque` matches no module",
                expected="globs of " + (", ".join(paths) or "submodules, which there are none of"),
                found=repr(glob),
            )


@torch.no_grad()
def _check_runs(original: nn.Module, example: Tensor) -> None:
    """Run the module: what it raises is its own or the example's fault, not that of the export.

    Raises:
        SpecError: It fails.
    """
    check_one_input(original)
    try:
        copy.deepcopy(original)(example)
    except Exception as error:  # whatever the module's code raises
        lines = str(error).splitlines() or [""]
        raise SpecError(
            "Module does not run on the example input",
            expected="an example of the shape that its forward takes",
            found=f"{type(error).__name__}: {lines[0][:160]}",
            where=f"example of {tuple(example.shape)}",
        ) from None


def _trace_known(original: nn.Module, example: Tensor, opaque: Sequence[str]) -> TracedModule:
    """Trace a module, and keep whole what is not understood.

    Where a submodule cannot be kept whole, the module around it is.

    Raises:
        SpecError: The module's own forward is not understood.
    """
    kept = list(opaque)
    modules = dict(original.named_modules())
    while True:
        try:
            return trace(original, example, kept)
        except UnknownPartError as error:
            path = error.path
            if path in kept:  # itself it cannot stay
                kept.remove(path)
                path = path.rpartition(".")[0]
            if not path or path in kept:
                raise
            log.warning("%s. Module %r is kept whole, its channels too", error, path)
            kept.append(path)
            kind = type(modules[path])
            if error.without_rule and path == error.path and kind.__module__.startswith("torch."):
                kept += [p for p, part in modules.items() if type(part) is kind and p not in kept]


def _distinct_images(example: Tensor) -> Tensor:
    """At least two different images: a batch of one would hide what mixes images."""
    return example if len(example) > 1 else torch.cat([example, 0.5 * example.flip(-1)])


def _network(traced: TracedModule, name: str) -> tuple[ImportedNetwork, dict[str, str]]:
    builder = traced.builder
    outputs = {view.layer for view in traced.outputs}
    fused = fuse(builder.layers, builder.tensors, outputs)
    views = tuple(
        view._replace(layer=fused.now.get(view.layer, view.layer)) for view in traced.outputs
    )
    spec = NetworkSpec(
        name,
        InputSpec(*builder.shapes[INPUT]),
        fused.layers,
        tuple(dict.fromkeys(view.layer for view in views)),
        (),
    )
    names = {
        layer.name: {"layer": layer.name, **fused.absorbed.get(layer.name, {})}
        for layer in fused.layers
    }
    interface = TorchInterface(traced.input_dims, views, traced.structure, names)
    present = {layer.name for layer in fused.layers}
    seen = {old: new for old, new in fused.now.items() if new in present}
    seen.update({n: n for n in present - fused.hidden})
    modules = {path: copy.deepcopy(part) for path, part in builder.modules.items()}
    return ImportedNetwork(spec, fused.tensors, interface, modules), seen


# --- verification -------------------------------------------------------------------------------


def _verify(
    original: nn.Module,
    network: ImportedNetwork,
    traced: TracedModule,
    seen: Mapping[str, str],
    example: Tensor,
) -> None:
    """Compare outputs; where they differ, find the first module that does.

    Raises:
        SpecError: Names the module's path and the largest difference.
    """
    expected, precise = _run_original(original, example)
    copied = network.resized(network.spec, network.tensors()).eval()
    copied = copied.double() if precise else copied
    with torch.no_grad():
        found = copied(example.double() if precise else example)
    limit = TOLERANCE if precise else FLOAT32_TOLERANCE
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True)
    worst = max(_difference(a, b) for a, b in pairs)
    if worst <= limit:
        return
    _check_finite_run(original, example, expected)
    path, difference = _first_difference(copied, traced, seen, example, precise)
    raise SpecError(
        "Translated network gives other outputs",
        expected=f"within {limit:g} of their largest value",
        found=f"{worst:.3g}",
        where=f"first in module {path!r} ({difference:.3g})",
        fix="Name that module in `opaque` to keep it whole, and report this as a fault",
    )


def _check_finite(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse NaN and infinity; the module and its tensor are named.

    Raises:
        SpecError: A value is not finite.
    """
    for name, tensor in tensors:
        n_wrong = int((~torch.isfinite(tensor)).sum())
        if n_wrong:
            path, _, part = name.rpartition(".")
            raise SpecError(
                f"Module {path!r} has values that are not finite"
                if path
                else "The module has values that are not finite",
                expected="finite float32 numbers",
                found=f"{n_wrong} of {tensor.numel()} values of {part!r} are NaN or infinite",
                fix="Load the weights of a training that has not diverged",
            )


def _check_finite_run(original: nn.Module, example: Tensor, outputs: Any) -> None:
    """Where outputs are not finite, say what made them so.

    Raises:
        SpecError: The example, a buffer or an output is not finite.
    """
    if all(bool(torch.isfinite(x).all()) for x in pytree.tree_leaves(outputs)):
        return
    if not bool(torch.isfinite(example).all()):
        raise SpecError("Example input has values that are not finite", expected="finite numbers")
    _check_finite(original.named_buffers())
    raise SpecError(
        "Outputs of the module on the example are not finite",
        expected="finite numbers",
        fix="Give an example like the images it was trained on, and check the norms' variances",
    )


class _Float32Epsilon(TorchFunctionMode):
    """RMS norms without an epsilon of their own take that of float32, as they do in float32."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function in (torch.rms_norm, nn.functional.rms_norm):
            if len(args) == 4 and args[3] is None:
                args = args[:3]
            if len(args) < 4 and kwargs.get("eps") is None:
                kwargs["eps"] = torch.finfo(torch.float32).eps
        return function(*args, **kwargs)


def _run_original(original: nn.Module, example: Tensor) -> tuple[Any, bool]:
    with torch.no_grad():
        try:
            with _Float32Epsilon():
                return copy.deepcopy(original).double()(example.double()), True
        except (RuntimeError, TypeError, ValueError):  # a dtype is written into its code
            return original(example), False


def _difference(expected: Tensor, found: Tensor) -> float:
    return relative_error(found.double().cpu().numpy(), expected.detach().double().cpu().numpy())


def _first_difference(
    network: ImportedNetwork,
    traced: TracedModule,
    seen: Mapping[str, str],
    example: Tensor,
    precise: bool,
) -> tuple[str, float]:
    """The first module whose value differs, and by how much; the last one if none can be seen."""
    spec = network.spec
    every = spec._replace(outputs=tuple(layer.name for layer in spec.layers))
    tensors, dtype = network.tensors(), torch.float64 if precise else torch.float32
    inside = Network(every, tensors, network.opaque_modules).to(dtype).eval()
    for name, tensor in inside.tensors().items():
        tensor.copy_(tensors[name])
    program = traced.program.module().to(dtype)
    recorder = _Recorder(program)
    with torch.no_grad():
        values = inside(from_layout(example.to(dtype), traced.input_dims, spec.shapes()[INPUT]))
        recorder.run(example.to(dtype))
    places = {node.name: (node, view) for node, view in traced.views.items()}
    path, difference = "", float("nan")
    for name, expected in recorder.values.items():
        node, view = places.get(name, (None, None))
        if node is None or view is None or view.layer not in seen:
            continue
        value = values[seen[view.layer]].reshape(-1, *spec.shapes()[seen[view.layer]])
        path = module_path(node)[0]
        difference = _difference(expected, to_layout(value, view.dims))
        if difference > (TOLERANCE if precise else FLOAT32_TOLERANCE):
            break
    return path, difference


class _Recorder(fx.Interpreter):
    """Runs an exported module and keeps every tensor by the name of its node."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.values[n.name] = value.clone()
        return value
