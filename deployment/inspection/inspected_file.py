"""The file to inspect: a checkpoint, or an ONNX file exported from one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adadm.calibration.source_network import (
    SourceNetwork,
    fixed_sizes,
    load_source_network,
    refuse_checkpoint_options,
)
from adadm.deployment.inspection.structure import Structure, read_structure
from adadm.export.graph.checker import read_model
from adadm.export.limits import Limit
from adadm.export.passes import Decision, fold_batch_norm
from adadm.export.proof.cases import Shape
from adadm.export.weights.hyperparameters import Hyperparameter
from adadm.runtime.errors import CalibrationError
from adadm.runtime.models.bundled import is_engine, is_onnx
from adadm.runtime.models.metadata import NetworkMetadata
from adadm.runtime.models.onnx_reader import read_onnx

_EXPORT_NOTES = ("version", "fold", "tail", "io", "stats", "checkpoint_sha256")
"""Metadata of an export, besides those of its network."""


@dataclass(frozen=True)
class InspectedFile:
    """A network with AdaDM in a file.

    Attributes:
        sha256: digest of the file.
        metadata: metadata of an ONNX file; for a checkpoint, that of its exports.
        hyperparameters: values with their origins.
        decisions: result of the export for each batch normalization.
        source: network before its folds; None for a folded or lowered file.
        static: N, H and W if the file fixes them.
    """

    path: Path
    sha256: str
    metadata: NetworkMetadata
    hyperparameters: Mapping[str, Hyperparameter]
    structure: Structure
    decisions: tuple[Decision, ...]
    source: SourceNetwork | None
    static: Shape | None = None

    @property
    def export_notes(self) -> dict[str, str]:
        """Export and lowering options recorded in an ONNX file; empty for a checkpoint."""
        if self.metadata.version is None:
            return {}
        notes = {name: getattr(self.metadata, name) for name in _EXPORT_NOTES}
        return {**notes, "precision": self.metadata.precision}

    @property
    def is_deployed(self) -> bool:
        """True if the file is folded or lowered, so that it has no normalizations to inspect."""
        return self.source is None


def read_inspected_file(
    path: Path,
    arch: str = "auto",
    *,
    free_sizes: bool = True,
    limit: Limit | None = None,
    weights: str | None = None,
    **undetectable: float | None,
) -> InspectedFile:
    """Read a checkpoint or an ONNX file for inspection.

    Args:
        arch, limit, weights, undetectable: for a checkpoint, as in `load_checkpoint`.
        free_sizes: for a checkpoint, as in `trace`; required for running on photographs.

    Raises:
        CheckpointError: the checkpoint cannot be read, or does not fit a network.
        EngineError: the ONNX file cannot be read.
        CalibrationError: the file is an engine or of another kind, or has no modulators.
        ExportError: torch.onnx cannot export a custom network.
    """
    if is_engine(path):
        raise CalibrationError(
            f"{path} is an engine, which does not show its network; give the ONNX model from which "
            "it was built, or better the checkpoint"
        )
    if is_onnx(path):
        refuse_checkpoint_options(path, arch, {"limit": limit, "weights": weights, **undetectable})
        inspected = _exported(path)
    else:
        source = load_source_network(
            path, arch, free_sizes=free_sizes, limit=limit, weights=weights, **undetectable
        )
        inspected = _inspected(path, source.sha256, source.metadata, source)
    if not inspected.structure.blocks:
        raise CalibrationError(
            f"{path} has no modulator of AdaDM to inspect; expected a network with modulated "
            "residual branches (adadm.export.AdaDM)"
        )
    return inspected


def _exported(path: Path) -> InspectedFile:
    file = read_onnx(path)
    metadata = file.metadata
    if missing := metadata.missing(*_EXPORT_NOTES):
        raise CalibrationError(
            f"{path} was not written by adadm export (its metadata lacks {', '.join(missing)}); "
            "give the checkpoint, or an export of it"
        )
    if metadata.stats != "internal":
        raise CalibrationError(
            f"{path} is the `{metadata.stats}` model for tiles; give the model for whole images: "
            "the same name without that word"
        )
    source = load_source_network(path) if metadata.fold == "off" else None
    shape = next((spec.shape for spec in file.inputs if spec.name == "lr"), ())
    static = fixed_sizes(shape, is_image=metadata.is_uint8)
    return _inspected(path, file.sha256, metadata.network, source, static=static)


def _inspected(
    path: Path,
    sha256: str,
    metadata: NetworkMetadata,
    source: SourceNetwork | None,
    *,
    static: Shape | None = None,
) -> InspectedFile:
    if source is not None:
        model, decisions = source.model, fold_batch_norm(source.model.clone())
    else:
        model = read_model(path)
        decisions = [
            Decision(note["node"], note["form"], note["reason"])
            for note in metadata.batch_normalizations or []
        ]
    hyperparameters = metadata.hyperparameters or {}
    return InspectedFile(
        path=path,
        sha256=sha256,
        metadata=metadata,
        hyperparameters={name: Hyperparameter(**h) for name, h in hyperparameters.items()},
        structure=read_structure(model, decisions),
        decisions=tuple(decisions),
        source=source,
        static=static,
    )
