"""The network description executed in NumPy: slow, the reference of all other engines."""

from typing import Dict, List, Tuple

import numpy as np

from pneumonia.runtime.engines import Engine
from pneumonia.runtime.engines.numpy_ops import Tensors, run_op
from pneumonia.runtime.model.spec import INPUT, NetworkSpec


class ReferenceEngine(Engine):
    """Runs a network description layer by layer.

    Args:
        tensors: Dense tensors as in `spec.tensor_shapes`.
    """

    name = "reference"

    def __init__(self, spec: NetworkSpec, tensors: Tensors) -> None:
        super().__init__(spec)
        self._tensors = tensors
        self._last_use = self._find_last_uses()

    def _find_last_uses(self) -> Dict[str, List[str]]:
        """Layer -> values that no later layer reads, so that they can be freed."""
        last = {}
        for layer in self.spec.layers:
            for source in layer.inputs:
                last[source] = layer.name
        done: Dict[str, List[str]] = {layer.name: [] for layer in self.spec.layers}
        for source, reader in last.items():
            if source not in self.spec.outputs:
                done[reader].append(source)
        return done

    def _image(self, image: np.ndarray) -> Tuple[np.ndarray, ...]:
        values = {INPUT: image}
        for layer in self.spec.layers:
            sources = [values[source] for source in layer.inputs]
            values[layer.name] = run_op(self.spec.executed(layer), sources, self._tensors)
            for source in self._last_use[layer.name]:
                del values[source]
        return tuple(values[name] for name in self.spec.outputs)

    def _run(self, batch: np.ndarray) -> Dict[str, np.ndarray]:
        results = {
            name: np.empty((len(batch),) + self.output_shapes[name], dtype=np.float32)
            for name in self.spec.outputs
        }
        for index, image in enumerate(batch):
            for name, value in zip(self.spec.outputs, self._image(image)):
                results[name][index] = value.reshape(results[name].shape[1:])
        return results
