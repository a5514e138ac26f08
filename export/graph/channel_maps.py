"""What became of each channel of a network's tensors, in the metadata of a model.

The key `adadm.channel_maps` is a JSON object: by the name of a value of the graph for whole images,
`[scale, offset]`, each one number for all channels or a list of one a channel. The value holds
`scale * x + offset`, where x is the tensor of the same name in the network as it was trained, of a
convolution with a constant factor after it (`res_scale`) times that. What is not named holds x.
Numbers have the digits that tell float32 values apart.

A fold moves what it takes from a normalization into the tensors around it (`ShiftTrunk`,
`FoldBatchNormAfterRelu`, `FoldAffineIntoPrecedingConv`), lowering changes their ranges
(`ScaleTrunk`, `EqualizeChannels`). Each notes what it does as it does it (`map_channels`), so that
whoever compares two forms of a network tensor by tensor need not guess it from weights, which may
be what is wrong.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from adadm.export.graph.channels import Affine, Array, take_channel_map
from adadm.runtime.models.metadata import ModelMetadata


def note_channel_maps(model: ir.Model) -> None:
    """Write what passes did to the values of a model into its metadata, after what stands there."""
    maps = read_channel_maps(ModelMetadata.from_props(model.metadata_props)) or {}
    for value in (value for node in model.graph for value in node.outputs):
        if (noted := take_channel_map(value)) is not None:
            maps[str(value.name)] = noted.after(maps.get(str(value.name)))
    content = {name: [_shortest(m.scale), _shortest(m.shift)] for name, m in maps.items()}
    changed = {name: numbers for name, numbers in content.items() if numbers != [1.0, 0.0]}
    model.metadata_props.update(ModelMetadata(channel_maps=changed).to_props())


def read_channel_maps(metadata: ModelMetadata) -> dict[str, Affine] | None:
    """The maps by name; None of a model that was made without them."""
    if metadata.channel_maps is None:
        return None
    return {
        name: Affine(*(np.atleast_1d(np.float32(numbers)).astype(np.float64) for numbers in both))
        for name, both in metadata.channel_maps.items()
    }


def _shortest(values: Array) -> float | list[float]:
    digits = [float(str(value)) for value in values.astype(np.float32)]
    return digits[0] if len(set(digits)) == 1 else digits
