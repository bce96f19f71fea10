"""The steps of a plan: what each reads and writes, and its record in C."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

from deploy_jetson.kernels.plan.c_values import CValue, blocked
from deploy_jetson.kernels.plan.layer_problem import LayerProblem, Weights
from deploy_jetson.kernels.plan.rounding import REAL, Rounding
from deploy_jetson.kernels.plan.tensors import Buffer, ChannelView, Ints
from deploy_jetson.kernels.plan.weight_store import WeightStore
from deploy_jetson.kernels.targets import Target
from pneumonia.runtime.model.layers import LEAKY_SLOPE

SLOPES = {"linear": 1.0, "relu": 0.0, "leaky_relu": LEAKY_SLOPE}
NO_SKIP = -1


class StepRecord(NamedTuple):
    """One entry of the C step table."""

    name: str  # shown by profiles
    run: str  # the step function
    type: str  # C type of the layer record
    fields: Mapping[str, CValue]  # its designated initialisers, in order
    units: int  # independent pieces of work
    barrier: bool = True  # whether later steps read what this one writes


class Step(Protocol):
    """One step of the plan."""

    @property
    def name(self) -> str:
        """Layer the step belongs to."""

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """Buffers that the step reads."""

    @property
    def writes(self) -> tuple[Buffer, ...]:
        """Buffers that the step fills; empty when it writes the caller's output."""

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


def variants_of(steps: Iterable[Step], target: Target) -> list[Variant]:
    """Kernel variants the steps call, each once, in a stable order."""
    called = (step.variants(target) for step in steps if isinstance(step, KernelStep))
    return sorted(set(chain.from_iterable(called)), key=lambda variant: variant.name)


def activation(name: str) -> dict[str, CValue]:
    """Fields of a C `activation`."""
    return {"slope": SLOPES[name]}


@dataclass(eq=False)
class CopyStep:
    """What the steps share that copy channels into a buffer of their own."""

    name: str  # layer name
    view: ChannelView  # the channels
    out: Buffer

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """The buffers of the channels."""
        return self.view.buffers

    @property
    def writes(self) -> tuple[Buffer, ...]:
        """The buffer of the copy."""
        return (self.out,)


@dataclass(eq=False)
class ConvolutionStep:
    """What the steps of all convolution kernels share."""

    problem: LayerProblem  # layer, weights and shapes
    bias: Weights  # (O,)
    view: ChannelView  # input channels
    out: Buffer  # output buffer
    order: Ints  # (O,) old index of each physical filter
    skip: Buffer | None = None  # tensor added after the activation, laid out like `out`
    after: str = "linear"  # activation after the sum
    # the output as whole numbers, where an int8 convolution reads it
    rounding: Rounding | None = None
    real: bool = True  # whether the output is also written as float vectors in `out`
    may_round: ClassVar[bool] = False  # whether its kernel can write whole numbers

    @property
    def name(self) -> str:
        """Layer name."""
        return self.problem.layer.name

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """The input, and the buffer that is added."""
        return self.view.buffers + ((self.skip,) if self.skip else ())

    @property
    def writes(self) -> tuple[Buffer, ...]:
        """The output in each of its formats."""
        words = (self.rounding.words,) if self.rounding else ()
        return (self.out, *words) if self.real else words

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats of the output, as the templates name them."""
        words = (self.rounding.format,) if self.rounding else ()
        return (REAL, *words) if self.real else words

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
