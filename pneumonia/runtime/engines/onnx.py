"""ONNX Runtime on the CPU."""

from typing import Dict, List, Optional

import numpy as np
import onnxruntime

from pneumonia.runtime.engines import Engine
from pneumonia.runtime.errors import ArtefactError, DeviceError
from pneumonia.runtime.storage.bundle import Bundle


class OnnxEngine(Engine):
    """Runs a bundle's model.onnx.

    Args:
        threads: Threads inside one operation; None = ONNX Runtime's choice.

    Raises:
        ArtefactError: The file is not an ONNX model, or its inputs and outputs do not fit the
            network.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, threads: Optional[int] = None) -> None:
        super().__init__(bundle.spec)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # threads that wait for the next image by spinning take the cores of those that decode it
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        path = bundle.onnx_path
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the library's own exception types are not public
            raise ArtefactError(
                "ONNX model cannot be loaded", found=type(error).__name__, where=path
            ) from None
        self._input = self._check(path)

    def _check(self, path: str) -> str:
        inputs = self._session.get_inputs()
        outputs = {item.name for item in self._session.get_outputs()}
        size = self.spec.input
        expected = [size.channels, size.height, size.width]
        if len(inputs) != 1 or list(inputs[0].shape[1:]) != expected:
            raise ArtefactError(
                "ONNX model takes another input than the network description",
                expected=str(expected),
                found=str([item.shape for item in inputs])[:80],
                where=path,
            )
        missing = [name for name in self.spec.outputs if name not in outputs]
        if missing:
            raise ArtefactError(
                "ONNX model lacks an output of the network description",
                expected=repr(missing[0]),
                found=", ".join(sorted(outputs)),
                where=path,
            )
        # Models for TensorRT 8.2 have a fixed batch; those are fed piecewise.
        first = inputs[0].shape[0]
        self._fixed_batch = first if isinstance(first, int) else None
        return str(inputs[0].name)

    def _run(self, batch: np.ndarray) -> Dict[str, np.ndarray]:
        step = self._fixed_batch or max(1, len(batch))
        pieces = [self._piece(batch[i : i + step], step) for i in range(0, len(batch), step)]
        results = {}
        for index, name in enumerate(self.spec.outputs):
            joined = np.concatenate([piece[index] for piece in pieces])
            results[name] = joined.reshape((len(batch),) + self.output_shapes[name])
        return results

    def _piece(self, images: np.ndarray, step: int) -> List[np.ndarray]:
        count = len(images)
        if self._fixed_batch and count < step:
            filler = np.zeros((step - count,) + images.shape[1:], dtype=np.float32)
            images = np.concatenate([images, filler])
        try:
            values = self._session.run(list(self.spec.outputs), {self._input: images})
        except Exception as error:  # the library's own exception types are not public
            raise DeviceError(
                "ONNX Runtime failed", found=type(error).__name__, where="engine 'onnxruntime'"
            ) from None
        return [np.asarray(value)[:count] for value in values]
