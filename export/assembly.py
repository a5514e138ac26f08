"""Turn a traced graph into models of the required form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from adadm.export.graph.channel_maps import note_channel_maps
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
from adadm.runtime.errors import require
from adadm.runtime.json_format import as_json
from adadm.runtime.models.metadata import NetworkMetadata, Stats

_METADATA_OF_ONNXSIM = "onnxsim."


@dataclass(frozen=True)
class Assembled:
    """Models of the required form, before any comparison.

    Attributes:
        decisions: outcome for each BatchNormalization; empty with `fold="off"`.
        tail: outcome for the tail; None with `tail="original"`.
        tiles: models for tiles; None with `stats="internal"`.
    """

    model: onnx.ModelProto
    decisions: list[Decision]
    tail: Decision | None
    tiles: TileModels | None


def assemble(model: ir.Model, network: NetworkMetadata, options: Options) -> Assembled:
    """Bring a traced graph into the required form in place, except for `io`, and check it.

    Args:
        network: metadata of the network, such as `Checkpoint.metadata`. Its fields on the graph,
            whose tail may have been collapsed earlier, override those found here.

    Raises:
        ExportError: the options do not suit the graph, or a check of the file fails.
    """
    decisions = fold_batch_norm(model) if options.fold == "exact" else []
    reach = receptive_field(model)
    tail = collapse_tail(model) if options.tail == "collapsed" else None
    metadata = replace(
        network,
        version=version("adadm-deploy"),
        fold=options.fold,
        tail=network.tail or ("collapsed" if tail and tail.result else "original"),
        io="float32",
        batch_normalizations=as_json(decisions),
        receptive_field=network.receptive_field or ("image" if reach is None else str(reach)),
    )

    def finished(form: ir.Model, stats: Stats) -> onnx.ModelProto:
        form.metadata_props.update(replace(metadata, stats=stats).to_props())
        return _finished(form, network.upscale, options)

    tiles = None
    if options.stats == "external":
        tile, moments = tile_graphs(model)
        tiles = TileModels(finished(tile, "external"), finished(moments, "moments"))
    note_channel_maps(model)
    if options.factors:
        ExposeFactors()(model)
    return Assembled(finished(model, "internal"), decisions, tail, tiles)


def bake_image_io(proto: onnx.ModelProto, network: Network, options: Options) -> onnx.ModelProto:
    """Convert a model to images as input and output, uint8 (N, H, W, 3).

    Raises:
        ExportError: a check of the result fails.
    """
    model: ir.Model = ir.from_proto(proto)
    BakeImageIO(network.rgb_range)(model)
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


def _simplified(model: ir.Model) -> onnx.ModelProto:
    """Simplify a model with onnxsim, and drop the notes that it leaves in the metadata."""
    onnxsim = require("onnxsim", "export")  # slow to import, and not every verb needs it
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
