"""From a checkpoint to an ONNX model that is proven to compute the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxsim

from adadm.export.checkpoint import Checkpoint
from adadm.export.models import Network
from adadm.export.opset import set_opset
from adadm.export.parity import (
    Accuracy,
    Hashing,
    Shape,
    check_image_io,
    check_parity,
    measure_accuracy,
)
from adadm.export.passes import (
    BakeImageIO,
    Decision,
    ExposeFactors,
    ResolveCastLike,
    collapse_tail,
    fold_batch_norm,
)
from adadm.export.tracing import freeze_shape, trace
from adadm.runtime.compare import Comparison
from adadm.runtime.errors import ExportError

__all__ = ["OPSETS", "Export", "Options", "assemble", "bake_image_io", "export_onnx"]

OPSETS = (17, 18, 19, 20)

_METADATA_OF_ONNXSIM = "onnxsim."


@dataclass(frozen=True)
class Options:
    """The form of the exported model.

    Attributes:
        modulator: `function` keeps each modulator one node with its body in the file; `inline`
            expands it, for runtimes that ignore model-local functions (TensorRT 8.x).
        fold: `exact` folds BatchNormalization; `off` keeps it, for tools that fold by themselves.
        tail: `collapsed` makes one convolution and one DepthToSpace of a linear tail, exactly;
            `original` keeps it.
        io: `float32` for (N, 3, H, W) in 0..rgb_range, `uint8` for images (N, H, W, 3).
        opset: of the default domain, 17 to 20.
        static: N, H and W where the sizes are to be fixed.
        factors: add the modulation factors to the outputs.
    """

    modulator: Literal["function", "inline"] = "function"
    fold: Literal["exact", "off"] = "exact"
    tail: Literal["collapsed", "original"] = "collapsed"
    io: Literal["float32", "uint8"] = "float32"
    opset: int = 19
    static: Shape | None = None
    factors: bool = False


@dataclass(frozen=True)
class Export:
    """An exported model, and what is known of it.

    Attributes:
        decisions: one for each BatchNormalization; empty with `fold="off"`.
        tail: what became of the tail; None with `tail="original"`.
        nodes_before, nodes_after: operator counts of the graph, function bodies apart.
        parity: one comparison a case.
        hashing: how the hash codes of each case compare; empty for a network without attention.
    """

    model: onnx.ModelProto
    checkpoint: Checkpoint
    options: Options
    decisions: list[Decision]
    tail: Decision | None
    nodes_before: dict[str, int]
    nodes_after: dict[str, int]
    parity: list[Comparison]
    hashing: list[Hashing]
    accuracy: list[Accuracy]

    @property
    def worse_than_bicubic(self) -> bool:
        """Whether the mean PSNR-Y lies below that of bicubic interpolation."""
        return sum(a.network_db - a.bicubic_db for a in self.accuracy) < 0

    def as_json(self) -> dict[str, Any]:
        """The report, ready for `json.dump`."""
        network = self.checkpoint.network
        return {
            "checkpoint": {"file": self.checkpoint.path.name, "sha256": self.checkpoint.sha256},
            "architecture": network.architecture,
            "hyperparameters": _hyperparameters(self.checkpoint),
            "options": vars(self.options),
            "version": version("adadm-deploy"),
            "batch_normalizations": [vars(decision) for decision in self.decisions],
            "tail": self.tail and vars(self.tail),
            "nodes": {"before": self.nodes_before, "after": self.nodes_after},
            "parity": [comparison.as_json() for comparison in self.parity],
            "hashing": [hashing.as_json() for hashing in self.hashing],
            "accuracy": [vars(accuracy) for accuracy in self.accuracy],
        }


def export_onnx(
    checkpoint: Checkpoint,
    options: Options = Options(),
    on_stage: Callable[[str], object] = str,
) -> Export:
    """Export a checkpoint and prove the result against PyTorch.

    Args:
        on_stage: called with a few words when a stage begins.

    Raises:
        ExportError: the options do not fit the network, or a check of the file fails.
        ParityError: ONNX Runtime and PyTorch disagree.
    """
    network = checkpoint.network
    _check_options(options, network)
    on_stage("tracing the network")
    model = trace(network)
    nodes_before = dict(Counter(node.op_type for node in model.graph))
    on_stage("folding, collapsing, simplifying and checking the graph")
    proto, decisions, tail = assemble(model, checkpoint, options)
    on_stage("comparing with PyTorch on photographs and hard cases")
    parity, hashing = check_parity(network, proto, options.static)
    if options.io == "uint8":
        on_stage("moving the conversion of images into the graph")
        batches, proto = proto, bake_image_io(proto, network, options)
        check_image_io(network, proto, batches, options.static)
    on_stage("measuring against bicubic interpolation")
    return Export(
        model=proto,
        checkpoint=checkpoint,
        options=options,
        decisions=decisions,
        tail=tail,
        nodes_before=nodes_before,
        nodes_after=dict(Counter(node.op_type for node in proto.graph.node)),
        parity=parity,
        hashing=hashing,
        accuracy=measure_accuracy(network),
    )


def assemble(
    model: ir.Model, checkpoint: Checkpoint, options: Options
) -> tuple[onnx.ModelProto, list[Decision], Decision | None]:
    """Bring a traced graph, in place, into the form that was asked for, but for `io`, and check it.

    Returns:
        The model, what became of each BatchNormalization, and of the tail.

    Raises:
        ExportError: the options do not fit the graph, or a check of the file fails.
    """
    decisions = fold_batch_norm(model) if options.fold == "exact" else []
    tail = collapse_tail(model) if options.tail == "collapsed" else None
    if options.factors:
        ExposeFactors()(model)
    if options.static is not None:
        freeze_shape(model, options.static, checkpoint.network.upscale)
    set_opset(model, options.opset)
    if options.modulator == "inline":
        common.InlinePass()(model)
        common.ShapeInferencePass()(model)
        ResolveCastLike()(model)
    model.metadata_props.update(_metadata(checkpoint, options, decisions, tail))
    proto = _simplified(model)
    _check_file(proto, options)
    return proto, decisions, tail


def bake_image_io(proto: onnx.ModelProto, network: Network, options: Options) -> onnx.ModelProto:
    """The same model for images: uint8 (N, H, W, 3) in and out.

    Raises:
        ExportError: a check of the result fails.
    """
    model: ir.Model = ir.from_proto(proto)
    BakeImageIO(network.rgb_range)(model)
    model.metadata_props["adadm.io"] = "uint8"
    baked: onnx.ModelProto = ir.to_proto(model)
    _check_file(baked, options)
    return baked


def _check_options(options: Options, network: Network) -> None:
    if options.opset not in OPSETS:
        raise ExportError(f"opset {options.opset} is not supported; choose one of {OPSETS}")
    if options.static is not None:
        _, height, width = options.static
        if height * width < network.smallest_area:
            side = network.smallest_side
            raise ExportError(
                f"the static size {height}x{width} has {height * width} px, {network.architecture} "
                f"needs at least {network.smallest_area}, such as {side}x{side}"
            )


def _metadata(
    checkpoint: Checkpoint, options: Options, decisions: list[Decision], tail: Decision | None
) -> dict[str, str]:
    network = checkpoint.network
    return {
        "adadm.architecture": network.architecture,
        "adadm.upscale": str(network.upscale),
        "adadm.rgb_range": f"{network.rgb_range:g}",
        "adadm.smallest_area": str(network.smallest_area),
        "adadm.hyperparameters": json.dumps(_hyperparameters(checkpoint), sort_keys=True),
        "adadm.checkpoint_sha256": checkpoint.sha256,
        "adadm.version": version("adadm-deploy"),
        "adadm.fold": options.fold,
        "adadm.tail": (tail and tail.form) or "original",
        "adadm.io": "float32",
        "adadm.batch_normalizations": json.dumps([vars(decision) for decision in decisions]),
    }


def _hyperparameters(checkpoint: Checkpoint) -> dict[str, dict[str, float | str]]:
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


def _check_file(proto: onnx.ModelProto, options: Options) -> None:
    """The ONNX checker, strict shape inference, and the opset that the file really has.

    Raises:
        ExportError: one of them objects.
    """
    try:
        onnx.checker.check_model(proto, full_check=True)
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the ONNX checker refuses the exported model: {error}") from error
    opsets = {entry.version for entry in proto.opset_import if not entry.domain}
    for function in proto.functions:
        opsets |= {entry.version for entry in function.opset_import if not entry.domain}
    if opsets != {options.opset}:
        raise ExportError(f"the model has the opsets {sorted(opsets)}, asked was {options.opset}")
