"""From a traced graph to models in the form that was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxsim

from adadm.export.checkpoint import Checkpoint
from adadm.export.graph.checker import check_file
from adadm.export.graph.opset import set_opset
from adadm.export.graph.receptive_field import receptive_field
from adadm.export.networks import Network
from adadm.export.options import Options
from adadm.export.passes import (
    BakeImageIO,
    Decision,
    ExposeFactors,
    InlineFunctions,
    collapse_tail,
    fold_batch_norm,
)
from adadm.export.tile_models import TileModels, tile_graphs
from adadm.export.tracing import freeze_shape
from adadm.runtime.json_format import as_json

__all__ = [
    "Assembled",
    "assemble",
    "bake_image_io",
    "hyperparameters",
    "identity",
]


_METADATA_OF_ONNXSIM = "onnxsim."


@dataclass(frozen=True)
class Assembled:
    """Models in the form that was asked for, not compared with anything yet.

    Attributes:
        decisions: one for each BatchNormalization; empty with `fold="off"`.
        tail: what became of the tail; None with `tail="original"`.
        tiles: None with `stats="internal"`.
    """

    model: onnx.ModelProto
    decisions: list[Decision]
    tail: Decision | None
    tiles: TileModels | None


def assemble(model: ir.Model, known: Mapping[str, str], options: Options) -> Assembled:
    """Bring a traced graph, in place, into the form that was asked for, but for `io`, and check it.

    Args:
        known: what the metadata says of the network, as `identity` has it. What it says of the
            graph, which may have had its tail collapsed before, overrules what is found there.

    Raises:
        ExportError: the options do not fit the graph, or a check of the file fails.
    """
    decisions = fold_batch_norm(model) if options.fold == "exact" else []
    reach = receptive_field(model)
    tail = collapse_tail(model) if options.tail == "collapsed" else None
    metadata = {
        "adadm.version": version("adadm-deploy"),
        "adadm.fold": options.fold,
        "adadm.tail": (tail and tail.result) or "original",
        "adadm.io": "float32",
        "adadm.batch_normalizations": json.dumps(as_json(decisions)),
        "adadm.receptive_field": "image" if reach is None else str(reach),
        **known,
    }

    def finished(form: ir.Model, stats: str) -> onnx.ModelProto:
        form.metadata_props.update({**metadata, "adadm.stats": stats})
        return _finished(form, int(known["adadm.upscale"]), options)

    tiles = None
    if options.stats == "external":
        tile, moments = tile_graphs(model)
        tiles = TileModels(finished(tile, "external"), finished(moments, "moments"))
    if options.factors:
        ExposeFactors()(model)
    return Assembled(finished(model, "internal"), decisions, tail, tiles)


def identity(checkpoint: Checkpoint) -> dict[str, str]:
    """What the metadata of every model of a checkpoint says of its network."""
    network = checkpoint.network
    return {
        "adadm.architecture": network.architecture,
        "adadm.upscale": str(network.upscale),
        "adadm.rgb_range": f"{network.rgb_range:g}",
        "adadm.smallest_area": str(network.smallest_area),
        "adadm.hyperparameters": json.dumps(hyperparameters(checkpoint), sort_keys=True),
        "adadm.checkpoint_sha256": checkpoint.sha256,
    }


def bake_image_io(proto: onnx.ModelProto, network: Network, options: Options) -> onnx.ModelProto:
    """The same model for images: uint8 (N, H, W, 3) in and out.

    Raises:
        ExportError: a check of the result fails.
    """
    model: ir.Model = ir.from_proto(proto)
    BakeImageIO(network.rgb_range)(model)
    model.metadata_props["adadm.io"] = "uint8"
    baked: onnx.ModelProto = ir.to_proto(model)
    check_file(baked, options.opset)
    return baked


def _finished(model: ir.Model, upscale: int, options: Options) -> onnx.ModelProto:
    if options.static is not None:
        freeze_shape(model, options.static, upscale)
    set_opset(model, options.opset)
    if options.modulator == "inline":
        InlineFunctions()(model)
    proto = _simplified(model)
    check_file(proto, options.opset)
    return proto


def hyperparameters(checkpoint: Checkpoint) -> dict[str, dict[str, float | str]]:
    """Each with its value and where it comes from, ready for `json.dump`."""
    return {name: vars(found) for name, found in checkpoint.hyperparameters.items()}


def _simplified(model: ir.Model) -> onnx.ModelProto:
    """Onnxsim's result, without the notes that it leaves in the metadata."""
    common.ShapeInferencePass()(model)
    proto = ir.to_proto(model)
    simplified, _ = onnxsim.simplify(proto, skip_fuse_bn=True)
    cleaned = ir.from_proto(simplified)
    for key in [key for key in cleaned.metadata_props if key.startswith(_METADATA_OF_ONNXSIM)]:
        del cleaned.metadata_props[key]
    common.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=0)(cleaned)
    common.RemoveUnusedFunctionsPass()(cleaned)  # type: ignore[no-untyped-call]
    checked: onnx.ModelProto = ir.to_proto(cleaned)
    return checked
