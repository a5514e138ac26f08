"""The network to lower, as trained: read from its checkpoint or from an unfolded export."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from adadm.export.checkpoint import load_checkpoint
from adadm.export.graph.checker import check_file, read_model
from adadm.export.limits import Limit
from adadm.export.networks import Network
from adadm.export.options import DEFAULTS, OPSETS
from adadm.export.proof.cases import Shape
from adadm.export.tracing import trace
from adadm.runtime.errors import CalibrationError
from adadm.runtime.models.bundled import is_onnx
from adadm.runtime.models.metadata import NETWORK, NetworkMetadata
from adadm.runtime.models.onnx_reader import OnnxFile, read_onnx

_IDENTITY = (*NETWORK, "hyperparameters", "checkpoint_sha256")
_OF_A_COLLAPSED_TAIL = ("tail", "receptive_field")
"""Metadata that cannot be recovered from a graph with a collapsed tail."""


@dataclass(frozen=True)
class SourceNetwork:
    """A network before any fold, for `assemble`.

    Attributes:
        model: `lr` float32 (N, 3, H, W) to `sr` float32, batch normalization kept, each modulator
            a node.
        metadata: `Checkpoint.metadata`, and that of a collapsed tail.
        network: None if the source is an ONNX file.
        static: N, H and W if the file fixes them.
        sha256: digest of the file.
    """

    model: ir.Model
    metadata: NetworkMetadata
    network: Network | None
    static: Shape | None
    sha256: str


def load_source_network(
    path: str | os.PathLike[str],
    arch: str = "auto",
    *,
    free_sizes: bool = True,
    limit: Limit | None = None,
    weights: str | None = None,
    **given: float | None,
) -> SourceNetwork:
    """Read a checkpoint, or an ONNX file that was exported with `--fold off`.

    Both give the same graph after folding and collapsing the tail.

    Args:
        arch, limit, weights, given: for a checkpoint, as in `load_checkpoint`.
        free_sizes: for a checkpoint, as in `trace`.

    Raises:
        CheckpointError: the checkpoint cannot be read, or does not fit a network.
        EngineError: the ONNX file cannot be read.
        CalibrationError: the ONNX file has another form.
        ExportError: torch.onnx cannot export the network, or the ONNX checker refuses the file.
    """
    path = Path(path)
    if not is_onnx(path):
        checkpoint = load_checkpoint(path, arch, limit=limit, weights=weights, **given)
        network, metadata = checkpoint.network, checkpoint.metadata
        model = trace(network, free_sizes=free_sizes)
        static = fixed_sizes(tuple(model.graph.inputs[0].shape or ()))
        return SourceNetwork(model, metadata, network, static, checkpoint.sha256)
    refuse_checkpoint_options(path, arch, {"limit": limit, "weights": weights, **given})
    file = read_onnx(path)
    noted = file.metadata
    _check_form(file)
    model = read_model(file.content)
    check_file(ir.to_proto(model), model.opset_imports[""])
    model.metadata_props.clear()
    needed = (*_IDENTITY, "limits", *(_OF_A_COLLAPSED_TAIL if noted.tail == "collapsed" else ()))
    return SourceNetwork(
        model=model,
        metadata=NetworkMetadata(**{name: getattr(noted, name) for name in needed}),
        network=None,
        static=fixed_sizes(tuple(model.graph.inputs[0].shape or ())),
        sha256=file.sha256,
    )


def fixed_sizes(shape: Sequence[object], *, is_image: bool = False) -> Shape | None:
    """N, H and W of a shape (N, 3, H, W), or (N, H, W, 3) of an image; None if any is free."""
    if len(shape) != 4:
        return None
    batch, height, width = shape[:3] if is_image else (shape[0], *shape[2:])
    if isinstance(batch, int) and isinstance(height, int) and isinstance(width, int):
        return batch, height, width
    return None


def refuse_checkpoint_options(
    path: Path, arch: str, given: Mapping[str, Limit | str | None]
) -> None:
    """Refuse hyper-parameters of a checkpoint for a file that records its own.

    Raises:
        CalibrationError: a hyper-parameter was given.
    """
    flags = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if flags := ["--arch"] * (arch != "auto") + flags:
        raise CalibrationError(
            f"{path} records its own network; {', '.join(flags)} can be given with a checkpoint "
            "only"
        )


def _check_form(file: OnnxFile) -> None:
    """Refuse a file in another form than that of `adadm export --fold off`."""
    path, metadata = file.path, file.metadata
    if missing := sorted(metadata.missing(*_IDENTITY, "fold", "io", "stats", "tail")):
        raise CalibrationError(
            f"{path} was not written by adadm export (its metadata lacks {', '.join(missing)}); "
            "give the checkpoint, or an export of it with --fold off"
        )
    inputs, outputs = ([spec.name for spec in specs] for specs in (file.inputs, file.outputs))
    problems = {
        "--fold off": metadata.fold != "off" and "its batch normalization is folded",
        "--stats internal": metadata.stats != "internal"
        and f"it is the `{metadata.stats}` model for tiles",
        "--io float32": metadata.is_uint8 and "it reads uint8 images",
        "--modulator function": not file.has_functions and "its modulators are inlined",
        f"--opset {DEFAULTS.opset}": file.opset not in OPSETS and f"it has opset {file.opset}",
        "this version": inputs != ["lr"] and f"it reads {', '.join(inputs)}",
        "no --factors": outputs != ["sr"] and f"it returns {', '.join(outputs)}",
    }
    if obstacles := {remedy: problem for remedy, problem in problems.items() if problem}:
        raise CalibrationError(
            f"{path}: {'; '.join(map(str, obstacles.values()))}. Export it again with "
            f"{', '.join(obstacles)}, or give the checkpoint"
        )
