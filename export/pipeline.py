"""Export a checkpoint to an ONNX model that is proven to compute the same."""

from __future__ import annotations

import functools
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from adadm.export.assembly import assemble, bake_image_io
from adadm.export.checkpoint import Checkpoint
from adadm.export.guesses import TriedValues, try_usual_values, warnings_of
from adadm.export.measurements import HaloError, measure_halo, measure_memories
from adadm.export.options import DEFAULTS, Options, check_options
from adadm.export.passes import Decision
from adadm.export.proof.accuracy import Accuracy, measure_accuracy
from adadm.export.proof.parity import Hashing, check_image_io, check_parity
from adadm.export.tile_models import TileModels, std_from
from adadm.export.tracing import trace
from adadm.runtime import json_format
from adadm.runtime.files import written_whole
from adadm.runtime.images.compare import Comparison
from adadm.runtime.models.bundled import variant_path
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.upscaling.memory import MemoryModel


@dataclass(frozen=True)
class Export:
    """An exported model and its measurements.

    Attributes:
        decisions, tail, tiles: as in `Assembled`.
        nodes_before, nodes_after: operator counts of the graph, without function bodies.
        parity: comparison of each case.
        tiles_parity: likewise for the model for tiles, given the std of the whole image.
        hashing: comparison of the hash codes of each case; empty without attention.
        halo: error at each overlap of tiles; empty with `stats="internal"` or a fixed size.
        tried: accuracy with other usual hyper-parameters; the first are those of the model.
        memory: memory model of a session, by backend.
    """

    model: onnx.ModelProto
    checkpoint: Checkpoint
    options: Options
    decisions: list[Decision]
    tail: Decision | None
    tiles: TileModels | None
    nodes_before: dict[str, int]
    nodes_after: dict[str, int]
    parity: list[Comparison]
    tiles_parity: list[Comparison]
    hashing: list[Hashing]
    accuracy: list[Accuracy]
    tried: list[TriedValues]
    halo: list[HaloError]
    memory: dict[str, MemoryModel]

    @property
    def warnings(self) -> list[str]:
        """What the photographs say against the network or its hyper-parameters."""
        return warnings_of(self.accuracy, self.tried, self.checkpoint.guesses)

    def write(self, output: Path, report: Path | None = None) -> list[Path]:
        """Write the model, the models for tiles beside it, and the report: all files or none."""
        models = {output: self.model}
        if self.tiles is not None:
            models |= {
                variant_path(output, "tile"): self.tiles.tile,
                variant_path(output, "moments"): self.tiles.moments,
            }
        with ExitStack() as files:
            for path, model in models.items():
                onnx.save(model, files.enter_context(written_whole(path)))
            if report is not None:
                content = json_format.text(self.as_json())
                files.enter_context(written_whole(report)).write_text(content, encoding="utf-8")
        return list(models)

    def as_json(self) -> dict[str, Any]:
        """Content of the report, for `json_format.text`."""
        network = self.checkpoint.network
        return {
            "checkpoint": {
                "file": self.checkpoint.path.name,
                "sha256": self.checkpoint.sha256,
                "weights": self.checkpoint.weights,
            },
            "architecture": network.architecture,
            "hyperparameters": self.checkpoint.hyperparameters,
            "options": self.options,
            "version": version("adadm-deploy"),
            "batch_normalizations": self.decisions,
            "tail": self.tail,
            "nodes": {"before": self.nodes_before, "after": self.nodes_after},
            "parity": self.parity,
            "tiles_parity": self.tiles_parity,
            "halo": self.halo,
            "memory": self.memory,
            "hashing": self.hashing,
            "accuracy": self.accuracy,
            "tried": self.tried,
        }


def export_onnx(
    checkpoint: Checkpoint, options: Options = DEFAULTS, *, progress: Progress = SILENT
) -> Export:
    """Export a checkpoint, and prove the result against PyTorch.

    Raises:
        ExportError: the options do not suit the network, or a check of the file fails.
        ParityError: ONNX Runtime and PyTorch disagree.
    """
    network = checkpoint.network
    check_options(options, network)
    progress.phase("tracing the network")
    model = trace(network)
    nodes_before = dict(Counter(node.op_type for node in model.graph))
    progress.phase("folding, collapsing, simplifying and checking the graph")
    assembled = assemble(model, checkpoint.metadata, options)
    proto, tiles = assembled.model, assembled.tiles
    progress.phase("comparing with PyTorch on photographs and hard cases")
    parity, hashing = check_parity(network, proto, options.static)
    tiles_parity: list[Comparison] = []
    halo: list[HaloError] = []
    if tiles is not None:
        progress.phase("comparing the model for tiles with PyTorch")
        moments = OnnxRuntimeSession(tiles.moments.SerializeToString())
        std_of = functools.partial(std_from, moments)
        tiles_parity, _ = check_parity(network, tiles.tile, options.static, std_of)
        if options.static is None:
            progress.phase("measuring the overlap that tiles need")
            halo = measure_halo(network, tiles)
    progress.phase("measuring the memory of the model")
    memory = measure_memories(network, proto, options.static)
    protos = [proto, *((tiles.tile, tiles.moments) if tiles else ())]
    for form in protos:
        _note_measured(form, halo, memory)
    if options.io == "uint8":
        progress.phase("moving the conversion of images into the graph")
        baked = [bake_image_io(form, network, options) for form in protos]
        check_image_io(network, baked[0], proto, options.static)
        proto, *others = baked
        tiles = TileModels(*others) if others else None
    progress.phase("measuring against bicubic interpolation, and with other hyper-parameters")
    return Export(
        model=proto,
        checkpoint=checkpoint,
        options=options,
        decisions=assembled.decisions,
        tail=assembled.tail,
        tiles=tiles,
        nodes_before=nodes_before,
        nodes_after=dict(Counter(node.op_type for node in proto.graph.node)),
        parity=parity,
        tiles_parity=tiles_parity,
        hashing=hashing,
        accuracy=measure_accuracy(network),
        tried=try_usual_values(network),
        halo=halo,
        memory=memory,
    )


def _note_measured(
    proto: onnx.ModelProto, halo: list[HaloError], memory: dict[str, MemoryModel]
) -> None:
    """Record in the metadata what the runtime cannot compute from the graph."""
    noted = ModelMetadata(
        memory={name: (model.fixed_bytes, model.bytes_per_pixel) for name, model in memory.items()},
        halo_errors=[(error.px, error.levels) for error in halo] or None,
    )
    for key, value in noted.to_props().items():
        proto.metadata_props.add(key=key, value=value)
