"""From a torch module to layers: the graph of `torch.export`, one rule per op."""

import inspect
import operator
import traceback
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from pneumonia.network.torch_import.attention_rules import ATTENTION_RULES, AttentionScores
from pneumonia.network.torch_import.builder import SpecBuilder
from pneumonia.network.torch_import.gate_rules import GATE_RULES
from pneumonia.network.torch_import.layer_rules import LAYER_RULES
from pneumonia.network.torch_import.layouts import (
    LayerView,
    NotUnderstoodError,
    UnknownPartError,
    map_dims,
)
from pneumonia.network.torch_import.moment_rules import MOMENT_RULES, ChannelMoment
from pneumonia.network.torch_import.opaque import OPAQUE_OP, opaque_layer, replaced_by_stand_ins
from pneumonia.network.torch_import.pool_rules import POOL_RULES
from pneumonia.network.torch_import.view_rules import VIEW_RULES
from pneumonia.runtime.errors import SpecError
from pneumonia.runtime.model.layers import Shape
from pneumonia.runtime.model.spec import INPUT

TORCH_FOLDER = str(Path(torch.__file__).parent)
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
RULES = LAYER_RULES | POOL_RULES | VIEW_RULES | ATTENTION_RULES | GATE_RULES
SYMBOLIC = (LayerView, AttentionScores, ChannelMoment)
TAKES_CONSTANTS = (  # also where the network's values are the second argument
    "add", "sub", "rsub", "mul", "div", "cat", "concat", "einsum", "scaled_dot_product_attention",
    "matmul", "bmm",
)  # fmt: skip


class TracedModule(NamedTuple):
    """A module's layers, before anything is fused."""

    builder: SpecBuilder  # layers and tensors
    outputs: tuple[LayerView, ...]  # what the module returns, flat
    structure: pytree.TreeSpec  # of what it returns
    input_dims: tuple[Any, ...]  # how the torch input lies over the description's
    views: dict[fx.Node, LayerView]  # node of the graph -> its view: to compare values
    program: torch.export.ExportedProgram  # the exported program


def input_shape(example: Tensor) -> Shape:
    """(C, H, W) of an example (N, C, H, W), (N, C, L) or (N, n).

    Raises:
        SpecError: Not a tensor of floats, or any other number of dimensions.
    """
    if not isinstance(example, Tensor):
        raise SpecError(
            "Example input is not a tensor",
            expected="one tensor of floats (N, C, H, W), (N, C, L) or (N, n)",
            found=type(example).__name__,
        )
    sizes = tuple(example.shape)
    if not 2 <= len(sizes) <= 4 or not all(sizes) or not example.is_floating_point():
        raise SpecError(
            "Example input is not understood",
            expected="floats (N, C, H, W), (N, C, L) or (N, n)",
            found=f"{example.dtype} {sizes}",
        )
    channels, height, width = (*sizes[1:], 1, 1)[:3]
    return (channels, height, width)


def trace(module: nn.Module, example: Tensor, opaque: Sequence[str]) -> TracedModule:
    """Export a module and translate its graph.

    Args:
        module: In evaluation mode.
        example: At least two images.
        opaque: Globs of the paths of modules to keep whole.

    Raises:
        SpecError: torch cannot export the module, or an op is not understood; names the module.
    """
    paths = [path for path, _ in module.named_modules() if path]
    kept = [path for path in paths if any(fnmatchcase(path, glob) for glob in opaque)]
    with replaced_by_stand_ins(module, kept, example) as modules:
        try:
            program = torch.export.export(module, (example,))
        except Exception as error:  # export raises whatever the module's code does
            raise _not_exported(module, error) from None
    program.graph.eliminate_dead_code()
    builder = SpecBuilder(input_shape(example), len(example), program.state_dict)
    builder.modules.update(modules)
    input_dims = map_dims(len(example), builder.shapes[INPUT], example.dim())
    env = _inputs(program, LayerView(INPUT, input_dims))
    views: dict[fx.Node, LayerView] = {}
    outputs: tuple[Any, ...] = ()
    for node in program.graph.nodes:
        if node.op == "output":
            outputs = tuple(_plain(x, env) for x in node.args[0])
        elif node.op != "placeholder":
            env[node] = _value(builder, node, env)
            if isinstance(env[node], LayerView):
                views[node] = env[node]
    for output in outputs:
        if not isinstance(output, LayerView):
            raise SpecError("Module returns something that its input does not change")
    structure = program.call_spec.out_spec
    return TracedModule(builder, outputs, structure, input_dims, views, program)


def check_one_input(module: nn.Module) -> None:
    """Raise SpecError for a module whose forward needs anything but one argument."""
    try:
        parameters = inspect.signature(module.forward).parameters
    except ValueError:  # of a scripted module
        return
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind not in VARIADIC
    ]
    if len(needed) > 1:
        raise SpecError(
            "Module takes several inputs",
            expected="a forward of one tensor",
            found=", ".join(needed),
            where=f"module {type(module).__name__}",
            fix="Import a part of one input, or mask the whole module with ModuleCompression",
        )


def _not_exported(module: nn.Module, error: Exception) -> UnknownPartError:
    """The error of an export that failed, with the innermost module whose code was running."""
    modules = dict(module.named_modules())
    paths = {id(part): path for path, part in modules.items()}
    path, place = "", ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        found = paths.get(id(first))
        own = not code.co_filename.startswith(TORCH_FOLDER)
        if found is not None and (own or found):
            path = found
            place = f", {Path(code.co_filename).name} line {line}" if own else place
    kind = type(modules[path]).__name__
    return UnknownPartError(
        path,
        "torch.export cannot trace the module",
        found=f"{type(error).__name__}: {str(error).splitlines()[0][:120]}",
        where=f"module {path!r} ({kind}){place}" if path else f"module {kind}{place}",
        fix="Its forward must not depend on values"
        + (f"; keep it whole: opaque=({path!r},), or keep_unknown=True" if path else ""),
    )


def _inputs(program: torch.export.ExportedProgram, entry: LayerView) -> dict[fx.Node, Any]:
    """Placeholders: parameters, buffers and constants as tensors, the input as a view."""
    signature, state = program.graph_signature, program.state_dict
    named: Mapping[str, str] = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    env: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            target = named.get(node.name)
            held = entry if target is None else state.get(target)
            env[node] = program.constants[target] if held is None and target else held
    return env


def _plain(argument: Any, env: Mapping[fx.Node, Any]) -> Any:
    return pytree.tree_map(
        lambda x: env[x] if isinstance(x, fx.Node) else x,
        argument,
        is_leaf=lambda x: isinstance(x, fx.Node),
    )


def module_path(node: fx.Node) -> tuple[str, str]:
    """Path and class of the module whose code made the node; the path of the root is empty."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "", ""
    path, kind = stack[-1]
    return path, str(kind).rpartition(".")[2]


def _value(builder: SpecBuilder, node: fx.Node, env: dict[fx.Node, Any]) -> Any:
    """What a node computes: a view of a layer, a constant, or part of a graph (`get_attr`)."""
    if node.op == "get_attr":
        return node.graph.owning_module.get_submodule(str(node.target))  # type: ignore[union-attr]
    args, kwargs = _plain(node.args, env), _plain(node.kwargs, env)
    if node.target is operator.getitem:
        return args[0][args[1]]
    leaves = pytree.tree_leaves((args, kwargs), is_leaf=lambda x: isinstance(x, SYMBOLIC))
    if not any(isinstance(x, SYMBOLIC) for x in leaves):  # known before any input is
        return node.target(*args, **kwargs)  # type: ignore[operator]
    if getattr(node.target, "__name__", "") == "wrap_with_autocast":
        return _inlined(builder, args)
    path, kind = module_path(node)
    builder.path = path
    if str(node.target) == OPAQUE_OP:
        return opaque_layer(builder, *args)
    schema = getattr(node.target, "_schema", None)
    if schema and not schema.returns:  # an assertion
        return None
    op = schema.name.rpartition("::")[2] if schema else str(node.target)
    name = op.removesuffix("_") if not op.startswith("_") else op
    try:
        rule = _rule(builder, name, leaves)
        value = rule(builder, _bound(node, args, kwargs))
    except Exception as error:  # also what a rule did not foresee: the module is named
        foreseen = isinstance(error, (NotUnderstoodError, SpecError))
        reason = str(error) if foreseen else f"{type(error).__name__}: {error}"
        raise UnknownPartError(
            path,
            "Part of the network is not understood",
            without_rule=name not in RULES,
            found=f"torch op {name}: {reason}",
            where=f"module {path!r} ({kind})" if path else "the module's own forward",
            fix=f"Keep it whole: opaque=({path!r},), or every such module: keep_unknown=True"
            if path
            else "Move it to a submodule",
        ) from None
    if op != name and isinstance(node.args[0], fx.Node):
        env[node.args[0]] = value  # in place: later readers of the old tensor see the new values
    return value


def _inlined(builder: SpecBuilder, args: Sequence[Any]) -> Any:
    """The values of a graph within `torch.autocast`, computed in float32 like everything else."""
    place = next(i for i, x in enumerate(args) if isinstance(x, fx.GraphModule))
    inputs = iter(args[place + 1 :])
    env: dict[fx.Node, Any] = {}
    for node in args[place].graph.nodes:
        if node.op == "placeholder":
            env[node] = next(inputs)
        elif node.op == "output":
            return _plain(node.args[0], env)
        else:
            env[node] = _value(builder, node, env)
    return None


def _rule(builder: SpecBuilder, name: str, leaves: Sequence[Any]) -> Callable[..., Any]:
    """The rule of an op for these arguments."""
    if any(isinstance(x, ChannelMoment) for x in leaves) or name in ("var", "std"):
        rules = MOMENT_RULES
    else:
        rules = RULES
    if name not in rules:
        known = "an op without a rule" if name not in RULES else "a statistic of channels"
        raise NotUnderstoodError(known)
    if isinstance(leaves[0], Tensor) and name not in TAKES_CONSTANTS:
        raise NotUnderstoodError("a constant where values of the network are expected")
    return rules[name]


def _bound(node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> SimpleNamespace:
    """Arguments by the names of the op's schema, with its defaults."""
    schema = node.target._schema  # type: ignore[union-attr]
    bound = {}
    for place, argument in enumerate(schema.arguments):
        given = args[place] if place < len(args) else kwargs.get(argument.name)
        missing = place >= len(args) and argument.name not in kwargs
        bound[argument.name] = argument.default_value if missing else given
    example = node.meta.get("val")
    if isinstance(example, Tensor):
        bound["out_shape"] = tuple(example.shape)
    return SimpleNamespace(**bound)
