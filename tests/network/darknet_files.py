"""Darknet `.weights` files, written with struct alone from the format's description."""

import struct

from pneumonia.runtime.model.layers import Conv

SEEN = 32_013_312


def darknet_bytes(spec, tensors, upto=None, header=None):
    """`upto`: only layers whose Darknet index is below it, as darknet53.conv.74 has."""
    data = header if header is not None else struct.pack("<iiiq", 0, 2, 0, SEEN)
    for layer in spec.layers:
        if not isinstance(layer, Conv):
            continue
        if upto is not None and int(layer.name[-3:]) >= upto:
            break
        parts = ["bn_bias", "bn_weight", "bn_mean", "bn_var"] if layer.batch_norm else ["bias"]
        for part in [*parts, "weight"]:
            values = tensors[f"{layer.name}.{part}"].flatten().tolist()
            data += struct.pack(f"<{len(values)}f", *values)
    return data
