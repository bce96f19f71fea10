"""Outputs of a detector about the whole image, beside its boxes."""

from torch import Tensor

from pneumonia.network.module import NamedTensors, needed_layers
from pneumonia.runtime.detection.heads import class_outputs
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.model.layers import GlobalAvgPool, Linear
from pneumonia.runtime.model.spec import NetworkSpec


def add_image_head(spec: NetworkSpec, n_values: int = 1) -> NetworkSpec:
    """A detector with one more output, a linear layer on the mean of the coarsest head's input.

    Args:
        n_values: 1 = a logit of whether there is anything in the image: `runtime.model.heads`
            multiplies every box's score by its probability. More = logits of that many classes of
            the whole image, an auxiliary output of the training that changes no box.

    Raises:
        ConfigError: The network has no detection head, or has an image-level output already.
    """
    heads = [head for head in spec.detect_layers() if head.name in spec.outputs]
    if not heads or len(heads) < len(spec.outputs):
        raise ConfigError(
            "An image head is for a detector without one",
            expected="detection heads as the only outputs",
            found=", ".join(spec.outputs),
            where=f"network {spec.name!r}",
        )
    coarsest = max(heads, key=lambda head: head.stride)
    source = spec.layer(coarsest.inputs[0]).inputs[0]
    at = len(spec.layers)
    pool = GlobalAvgPool(f"global_avg_pool_{at:03d}", (source,))
    logit = Linear(
        f"linear_{at + 1:03d}", (pool.name,), spec.shapes()[source][0], n_values, bias=True
    )
    return spec._replace(layers=(*spec.layers, pool, logit), outputs=(*spec.outputs, logit.name))


def remove_class_outputs(
    spec: NetworkSpec, tensors: NamedTensors
) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """The network without the outputs that only its training needed, and what feeds them alone.

    Returns:
        The spec and the tensors of its layers; both as given if there is no such output.
    """
    auxiliary = set(class_outputs(spec)) if spec.detect_layers() else set()
    if not auxiliary:
        return spec, dict(tensors)
    outputs = tuple(name for name in spec.outputs if name not in auxiliary)
    needed = needed_layers(spec.layers, outputs)
    layers = tuple(layer for layer in spec.layers if layer.name in needed)
    kept = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] in needed}
    return spec._replace(layers=layers, outputs=outputs), kept
