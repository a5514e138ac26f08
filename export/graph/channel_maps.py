"""Channel maps: how passes have changed each channel of a network's tensors, in the metadata.

The key `adadm.channel_maps` is a JSON object: `[scale, offset]` by the name of a value of the graph
for whole images, each a number for all channels or a list by channel. The value holds
`scale * x + offset`, where x is the tensor of the same name in the trained network; after a
convolution with a constant factor (`res_scale`), x includes that factor. Values that are not named
hold x. Numbers have enough digits to tell float32 values apart.

A fold moves the map of a normalization into the tensors around it (`ShiftTrunk`,
`FoldBatchNormAfterRelu`, `FoldAffineIntoPrecedingConv`). Lowering changes their ranges
(`ScaleTrunk`, `EqualizeChannels`). Each records its change at once (`map_channels`). So whoever
compares two forms of a network, tensor by tensor, need not guess the maps from weights, which may
be wrong.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from adadm.export.graph.channels import Affine, Array, take_channel_map
from adadm.runtime.models.metadata import ModelMetadata


def note_channel_maps(model: ir.Model) -> None:
    """Write the maps that passes recorded into a model's metadata, composed with those there."""
    maps = read_channel_maps(ModelMetadata.from_props(model.metadata_props)) or {}
    for value in (value for node in model.graph for value in node.outputs):
        if (noted := take_channel_map(value)) is not None:
            maps[str(value.name)] = noted.after(maps.get(str(value.name)))
    content = {name: [_shortest(m.scale), _shortest(m.shift)] for name, m in maps.items()}
    changed = {name: numbers for name, numbers in content.items() if numbers != [1.0, 0.0]}
    model.metadata_props.update(ModelMetadata(channel_maps=changed).to_props())


def read_channel_maps(metadata: ModelMetadata) -> dict[str, Affine] | None:
    """Read the maps by value name; None if the model has none."""
    if metadata.channel_maps is None:
        return None
    return {
        name: Affine(*(np.atleast_1d(np.float32(numbers)).astype(np.float64) for numbers in both))
        for name, both in metadata.channel_maps.items()
    }


def _shortest(values: Array) -> float | list[float]:
    digits = [float(str(value)) for value in values.astype(np.float32)]
    return digits[0] if len(set(digits)) == 1 else digits
