"""The steps of a plan: what each reads and writes, and its record in C."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

from deploy_jetson.kernels.compile.targets import Target
from deploy_jetson.kernels.plan.c_values import CValue, blocked
from deploy_jetson.kernels.plan.layer_problem import LayerProblem, Weights
from deploy_jetson.kernels.plan.rounding import REAL, Rounding
from deploy_jetson.kernels.plan.tensors import Buffer, ChannelView, Ints
from deploy_jetson.kernels.plan.weight_store import WeightStore
from pneumonia.runtime.model.layers import LEAKY_SLOPE

SLOPES = {"linear": 1.0, "relu": 0.0, "leaky_relu": LEAKY_SLOPE}
NO_SKIP = -1


class StepRecord(NamedTuple):
    """One entry of the C step table.

    Attributes:
        name: Shown by profiles.
        run: The step function.
        type: C type of the layer record.
        fields: Its designated initialisers, in order.
        units: Independent pieces of work.
        barrier: Whether later steps read what this one writes.
    """

    name: str
    run: str
    type: str
    fields: Mapping[str, CValue]
    units: int
    barrier: bool = True


class Step(Protocol):
    """One step of the plan."""

    @property
    def name(self) -> str:
        """Layer the step belongs to."""

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """Buffers it reads."""

    @property
    def writes(self) -> tuple[Buffer, ...]:
        """Buffers it fills; none: the caller's output."""

    def records(self, store: WeightStore, target: Target) -> list[StepRecord]:
        """Add its weights and lists to the store and describe it for C."""


class Variant(Protocol):
    """One generated C kernel: a member of a family with its compile-time parameters."""

    @property
    def family(self) -> str:
        """Name of the family whose template writes it; see `kinds.registry.FAMILIES`."""

    @property
    def name(self) -> str:
        """Name of its step function in C."""


@runtime_checkable
class KernelStep(Step, Protocol):
    """A step that calls generated kernels."""

    def variants(self, target: Target) -> list[Variant]:
        """Kernels its records call, one per record."""

    def scratch_floats(self, target: Target) -> int:
        """Floats of a thread's scratch memory it needs."""


def activation(name: str) -> dict[str, CValue]:
    """Fields of a C `activation`."""
    return {"slope": SLOPES[name]}


@dataclass(eq=False)
class ConvolutionStep:
    """What the steps of all convolution kernels share.

    Attributes:
        problem: Layer, weights and shapes.
        bias: (O,).
        view: Input channels.
        out: Output buffer.
        order: (O,) old index of each physical filter.
        skip: Tensor added after the activation, laid out like `out`.
        after: Activation after the sum.
        rounding: The output as whole numbers, where an int8 convolution reads it.
        real: Whether the output is also written as float vectors in `out`.
    """

    problem: LayerProblem
    bias: Weights
    view: ChannelView
    out: Buffer
    order: Ints
    skip: Buffer | None = None
    after: str = "linear"
    rounding: Rounding | None = None
    real: bool = True

    @property
    def name(self) -> str:
        """Layer name."""
        return self.problem.layer.name

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """Input and skip."""
        return self.view.buffers + ((self.skip,) if self.skip else ())

    @property
    def writes(self) -> tuple[Buffer, ...]:
        """The output in each of its formats."""
        words = (self.rounding.words,) if self.rounding else ()
        return (self.out, *words) if self.real else words

    @property
    def formats(self) -> tuple[str, ...]:
        """Of the output, as the templates name them."""
        words = (self.rounding.format,) if self.rounding else ()
        return (REAL, *words) if self.real else words

    @property
    def may_round(self) -> bool:
        """Whether its kernel can write whole numbers."""
        return False

    @property
    def needs_real(self) -> bool:
        """Whether its kernel keeps sums in `out` while it runs."""
        return False

    @property
    def weight(self) -> Weights:
        """(O, I, K, K) in physical order of the filters."""
        return self.problem.weight[self.order]

    def scratch_floats(self, target: Target) -> int:
        """Floats of a thread's scratch memory it needs: none."""
        return 0

    def common(self) -> dict[str, CValue]:
        """Fields every convolution record begins with."""
        return {
            "out": blocked(self.out if self.real else replace(self.out, offset=0)),
            "skip": self.skip.base if self.skip else NO_SKIP,
            "act": activation(self.problem.layer.activation),
            "act_after": activation(self.after),
            **({"rounding": self.rounding.record()} if self.rounding else {}),
        }
