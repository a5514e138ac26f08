"""What is inspected: a checkpoint, or an ONNX file that came from one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import onnx_ir as ir

from adadm.calibration.source_network import (
    SourceNetwork,
    load_source_network,
    refuse_checkpoint_options,
)
from adadm.deployment.inspection.structure import Structure, read_structure
from adadm.export.checkpoint import Hyperparameter
from adadm.export.passes import Decision, fold_batch_norm
from adadm.export.proof.cases import Shape
from adadm.runtime.errors import CalibrationError
from adadm.runtime.models.bundled import is_engine
from adadm.runtime.models.metadata import NetworkMetadata, lowering_notes
from adadm.runtime.models.onnx_reader import read_onnx

__all__ = ["InspectedFile", "read_inspected_file"]

_CHECKPOINTS = (".pt", ".pth", ".safetensors")
_FORM = ("version", "fold", "tail", "io", "stats", "checkpoint_sha256")
"""What the metadata of an export says, besides its network."""


@dataclass(frozen=True)
class InspectedFile(NetworkMetadata):
    """A network with AdaDM in a file.

    Attributes:
        sha256: of the file.
        hyperparameters: with where each comes from.
        form: what the metadata of an ONNX file says of it; empty for a checkpoint.
        decisions: what the export does, or did, with each batch normalization.
        source: the network before its folds; None for a file that is folded or lowered.
        static: N, H and W where the file fixes them.
        metadata: of an ONNX file; of a checkpoint, what its exports will say of the network.
    """

    path: Path
    sha256: str
    metadata: Mapping[str, str]
    hyperparameters: Mapping[str, Hyperparameter]
    form: Mapping[str, str]
    structure: Structure
    decisions: tuple[Decision, ...]
    source: SourceNetwork | None
    static: Shape | None = None

    @property
    def is_deployed(self) -> bool:
        """Whether it is folded, so that its normalizations are gone."""
        return self.source is None

    @property
    def is_rescaled(self) -> bool:
        """Whether its trunk was multiplied when it was lowered, and its modulators changed."""
        return bool(lowering_notes(self.metadata).get("factor_scales"))


def read_inspected_file(
    path: Path, arch: str = "auto", **undetectable: float | None
) -> InspectedFile:
    """Read a file.

    Args:
        arch, undetectable: of a checkpoint, as `load_checkpoint` takes them.

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
        refuse_checkpoint_options(path, arch, undetectable)
        inspected = _exported(path)
    else:
        source = load_source_network(path, arch, **undetectable)
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
    form = {key: metadata[f"adadm.{key}"] for key in _FORM if f"adadm.{key}" in metadata}
    if missing := [f"adadm.{key}" for key in _FORM if key not in form]:
        raise CalibrationError(
            f"{path} was not written by adadm export (its metadata lacks {', '.join(missing)}); "
            "give the checkpoint, or an export of it"
        )
    if form["stats"] != "internal":
        raise CalibrationError(
            f"{path} is the model `{form['stats']}` of tiles, give the one for whole images: the "
            "same name without that word"
        )
    form["precision"] = lowering_notes(metadata).get("precision", "float32")
    source = load_source_network(path) if form["fold"] == "off" else None
    static = _static(file.inputs[0].shape, is_image=form["io"] == "uint8")
    return _inspected(path, file.sha256, metadata, source, form=form, static=static)


def _inspected(
    path: Path,
    sha256: str,
    metadata: Mapping[str, str],
    source: SourceNetwork | None,
    *,
    form: Mapping[str, str] = MappingProxyType({}),
    static: Shape | None = None,
) -> InspectedFile:
    if source is not None:
        model, decisions = source.model, fold_batch_norm(source.model.clone())
    else:
        model = ir.load(path)
        noted = json.loads(metadata["adadm.batch_normalizations"])
        decisions = [Decision.from_json(row) for row in noted]
    hyperparameters = json.loads(metadata["adadm.hyperparameters"])
    return InspectedFile(
        path=path,
        sha256=sha256,
        metadata=metadata,
        hyperparameters={name: Hyperparameter(**h) for name, h in hyperparameters.items()},
        form=form,
        structure=read_structure(model, decisions),
        decisions=tuple(decisions),
        source=source,
        static=static,
    )


def _static(shape: tuple[int | str | None, ...], is_image: bool) -> Shape | None:
    """N, H and W, where they are numbers, of (N, H, W, 3) or (N, 3, H, W)."""
    batch, height, width = shape[:3] if is_image else (shape[0], *shape[2:])
    if isinstance(batch, int) and isinstance(height, int) and isinstance(width, int):
        return batch, height, width
    return None
