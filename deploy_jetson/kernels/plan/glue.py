"""The steps that are not convolutions: input, output, and the operations on whole vectors."""

from dataclasses import dataclass

import numpy as np

from deploy_jetson.kernels.plan.c_values import CValue, blocked
from deploy_jetson.kernels.plan.steps import CopyStep, StepRecord, activation
from deploy_jetson.kernels.plan.tensors import (
    Buffer,
    ChannelVectors,
    ChannelView,
    arena_offsets,
    int32,
)
from deploy_jetson.kernels.plan.weight_store import WeightStore
from deploy_jetson.kernels.targets import Target

INPUT_BANDS = 4  # units of work of one channel


@dataclass(eq=False)
class InputStep:
    """Copies the image into padded planes."""

    out: Buffer
    name: str = "input"
    reads: tuple[Buffer, ...] = ()

    @property
    def writes(self) -> tuple[Buffer, ...]:
        """The padded planes."""
        return (self.out,)

    def records(self, store: WeightStore, target: Target) -> list[StepRecord]:
        """One record."""
        fields: dict[str, CValue] = {
            "x": self.out.offset,
            "height": self.out.height,
            "width": self.out.width,
            "halo": self.out.halo,
            "bands": INPUT_BANDS,
        }
        units = self.out.blocks * INPUT_BANDS
        return [StepRecord(self.name, "run_input", "input_layer", fields, units)]


@dataclass(eq=False)
class OutputStep:
    """Writes one output tensor for the caller."""

    name: str
    view: ChannelView
    index: int
    last: bool
    writes: tuple[Buffer, ...] = ()

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """The buffer of the tensor."""
        return self.view.buffers

    def records(self, store: WeightStore, target: Target) -> list[StepRecord]:
        """One record; the outputs do not wait for each other."""
        fields: dict[str, CValue] = {
            "locations": store.add(int32(self.view.locations())),
            "channels": self.view.channels,
            "height": self.view.height,
            "width": self.view.width,
            "row": self.view.row,
            "pixel": self.view.pixel,
            "output": self.index,
        }
        return [
            StepRecord(
                self.name, "run_output", "output_layer", fields, self.view.channels, self.last
            )
        ]


@dataclass(eq=False)
class GatherStep(CopyStep):
    """Copies scattered channels into blocks of their own."""

    def records(self, store: WeightStore, target: Target) -> list[StepRecord]:
        """One record."""
        fields: dict[str, CValue] = {
            "out": blocked(self.out),
            "locations": store.add(int32(self.view.locations())),
            "channels": self.view.channels,
            "row": self.view.row,
            "pixel": self.view.pixel,
        }
        return [StepRecord(self.name, "run_gather", "gather_layer", fields, self.out.blocks)]


@dataclass(eq=False)
class BlockStep:
    """Sum, upsampling, max pool or mean of whole vectors of channels."""

    name: str  # layer name
    run: str  # the step function
    # input views with their vectors; all list the same channels in the same lanes
    sources: tuple[tuple[ChannelView, ChannelVectors], ...]
    out: Buffer  # output buffer
    act: str = "linear"  # activation
    window: tuple[int, int, int] = (1, 1, 0)  # kernel, stride (or scale) and padding

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """Buffers of all sources."""
        return tuple(buffer for view, _ in self.sources for buffer in view.buffers)

    @property
    def writes(self) -> tuple[Buffer, ...]:
        """The buffer of the tensor."""
        return (self.out,)

    def records(self, store: WeightStore, target: Target) -> list[StepRecord]:
        """One record."""
        view = self.sources[0][0]
        kernel, stride, pad = self.window
        fields: dict[str, CValue] = {
            "out": blocked(self.out),
            "sources": store.add(
                int32(np.concatenate([arena_offsets(*source) for source in self.sources]))
            ),
            "n_inputs": len(self.sources),
            "in_row": view.row,
            "in_height": view.height,
            "in_width": view.width,
            "kernel": kernel,
            "stride": stride,
            "pad": pad,
            "act": activation(self.act),
        }
        return [StepRecord(self.name, self.run, "block_layer", fields, self.out.blocks)]
