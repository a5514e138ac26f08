"""What is inspected: a checkpoint, or an ONNX file that came from one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from adadm.calibration.source_network import (
    SourceNetwork,
    load_source_network,
    refuse_checkpoint_options,
)
from adadm.deployment.inspection.structure import Structure, read_structure
from adadm.export.checkpoint import Hyperparameter
from adadm.export.limits import Limit
from adadm.export.passes import Decision, fold_batch_norm
from adadm.export.proof.cases import Shape
from adadm.runtime.errors import CalibrationError, EngineError
from adadm.runtime.json_format import Source, convert
from adadm.runtime.models.bundled import is_engine
from adadm.runtime.models.metadata import NetworkMetadata
from adadm.runtime.models.onnx_reader import read_onnx

_CHECKPOINTS = (".pt", ".pth", ".safetensors")
_EXPORT_NOTES = ("version", "fold", "tail", "io", "stats", "checkpoint_sha256")
"""What the metadata of an export says, besides its network."""


@dataclass(frozen=True)
class InspectedFile:
    """A network with AdaDM in a file.

    Attributes:
        sha256: of the file.
        metadata: of an ONNX file; of a checkpoint, what its exports will say of the network.
        hyperparameters: with where each comes from.
        decisions: what the export does, or did, with each batch normalization.
        source: the network before its folds; None for a file that is folded or lowered.
        static: N, H and W where the file fixes them.
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
        """What an ONNX file says of how it was exported and lowered; empty for a checkpoint."""
        if self.metadata.version is None:
            return {}
        notes = {name: getattr(self.metadata, name) for name in _EXPORT_NOTES}
        return {**notes, "precision": self.metadata.precision}

    @property
    def is_deployed(self) -> bool:
        """Whether it is folded, so that its normalizations are gone."""
        return self.source is None


def read_inspected_file(
    path: Path,
    arch: str = "auto",
    *,
    free_sizes: bool = True,
    limit: Limit | None = None,
    **undetectable: float | None,
) -> InspectedFile:
    """Read a file.

    Args:
        arch, limit, undetectable: of a checkpoint, as `load_checkpoint` takes them.
        free_sizes: of a checkpoint, as `trace` takes it; what runs on photographs needs them.

    Raises:
        CheckpointError: the checkpoint cannot be read, or does not fit a network.
        EngineError: the ONNX file cannot be read, or the file is an engine.
        CalibrationError: the file is something else, or has no modulators.
        ExportError: torch.onnx cannot export a network of one's own.
    """
    if is_engine(path):
        raise CalibrationError(
            f"{path} is an engine, which shows nothing of its network; give the ONNX model that it "
            "was built of, or better the checkpoint"
        )
    if path.is_file() and path.suffix not in (*_CHECKPOINTS, ".onnx"):
        raise CalibrationError(
            f"{path} ends in {path.suffix or 'no suffix'}; expected a checkpoint "
            f"({', '.join(_CHECKPOINTS)}), or an .onnx file of adadm export or adadm quantize"
        )
    if path.suffix == ".onnx":
        refuse_checkpoint_options(path, arch, {"limit": limit, **undetectable})
        inspected = _exported(path)
    else:
        source = load_source_network(path, arch, free_sizes=free_sizes, limit=limit, **undetectable)
        inspected = _inspected(path, source.sha256, source.metadata, source)
    if not inspected.structure.blocks:
        raise CalibrationError(
            f"{path} has no modulator of AdaDM, so there is nothing to inspect; expected a network "
            "whose residual branches are modulated (adadm.export.AdaDM)"
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
            f"{path} is the model `{metadata.stats}` of tiles, give the one for whole images: the "
            "same name without that word"
        )
    source = load_source_network(path) if metadata.fold == "off" else None
    static = _static(file.inputs[0].shape, is_image=metadata.is_uint8)
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
        model = ir.load(path)
        rows = metadata.batch_normalizations or []
        decisions = convert(rows, list[Decision], Source(path, EngineError, "export it again"))
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


def _static(shape: tuple[int | str | None, ...], *, is_image: bool) -> Shape | None:
    """N, H and W, where they are numbers, of (N, H, W, 3) or (N, 3, H, W)."""
    batch, height, width = shape[:3] if is_image else (shape[0], *shape[2:])
    if isinstance(batch, int) and isinstance(height, int) and isinstance(width, int):
        return batch, height, width
    return None
