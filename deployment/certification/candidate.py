"""The model to certify: an ONNX model or an engine, as deployed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from adadm.calibration.quality.ledger import Output, Stage
from adadm.deployment.certification.baseline import Baseline
from adadm.deployment.certification.running import (
    RunWithFactors,
    evaluated,
    feed_of,
    precision_of,
    run_graph,
    run_session,
)
from adadm.export.tile_models import std_from
from adadm.runtime.backends import open_session
from adadm.runtime.engines.manifest import manifest_path, read_manifest
from adadm.runtime.errors import CalibrationError
from adadm.runtime.files import sha256_of
from adadm.runtime.images.arrays import Batch
from adadm.runtime.models.bundled import FOR_TILES, is_engine, variant_path
from adadm.runtime.models.metadata import NETWORK, ModelMetadata, NetworkMetadata
from adadm.runtime.models.onnx_reader import read_onnx
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.sessions.session import Session


@dataclass(frozen=True)
class Candidate:
    """The model to certify.

    Attributes:
        precision: float32, fp16 or int8.
        description: software that runs it.
        stages: the model, and its models for tiles if there are any.
        graph: its computation as a float32 graph, for comparing layers; None for an engine.
        session: opens the deployed file itself, for timing.
        feed: converts a batch to inputs of the session.
        tile: H and W if the model accepts only one size, or an engine prefers one; else None.
        companions: files that belong to it.
    """

    path: Path
    sha256: str
    precision: str
    backend: str
    description: str
    stages: tuple[Stage, ...]
    graph: onnx.ModelProto | None
    session: Callable[[], Session]
    feed: Callable[[Batch], dict[str, Any]]
    tile: tuple[int, int] | None
    metadata: NetworkMetadata
    companions: tuple[Path, ...] = ()


def load_candidate(
    path: Path, reference: Baseline, backend: str, *, trust: bool = False
) -> Candidate:
    """Load a model of the same network as the reference.

    Args:
        backend: `cpu` emulates a device's rounding to half precision; other names of `open_session`
            run the file as it is. An engine has its own backend.
        trust: also load an engine without a manifest, which may run any code.

    Raises:
        CalibrationError: its metadata names another network.
        EngineError, SessionError: it cannot be read, or cannot run here.
    """
    if is_engine(path):
        return _engine(path, reference, trust=trust)
    model = read_onnx(path)
    metadata = _known_network(path, model.metadata, reference)
    graph = evaluated(model.content, metadata)
    precision = precision_of(graph, metadata)
    title = {"float32": "float32", "fp16": "FP16", "int8": "INT8"}[precision]
    run = run_graph(graph, metadata)
    description = "ONNX Runtime"
    if precision != "float32":
        description += ", with the rounding to half precision that its graph asks for"
    if backend != "cpu":
        opened = open_session(path, backend=backend)
        run = run_session(opened, metadata)
        title = f"{title}, {opened.backend}"
        description = f"backend {opened.backend}"
    stages = [Stage(title, run)]
    companions = tuple(p for f in FOR_TILES if (p := variant_path(path, f)).is_file())
    if len(companions) == 2 and not metadata.is_uint8:
        stages.append(Stage("tile models", _tile_models(companions, metadata)))
    with open_session(path, backend="cpu") as session:
        sizes = session.sizes if any(spec.name == "lr" for spec in session.inputs) else []
    return Candidate(
        path=path,
        sha256=model.sha256,
        precision=precision,
        backend=backend,
        description=description,
        stages=tuple(stages),
        graph=graph,
        session=lambda: open_session(path, backend=backend),
        feed=lambda lr: feed_of(model.inputs[0].name, lr, metadata),
        tile=sizes[0].most if sizes and sizes[0].is_fixed else None,
        metadata=metadata,
        companions=companions,
    )


def _engine(path: Path, reference: Baseline, *, trust: bool) -> Candidate:
    session = open_session(path, backend="engine", trust=trust)
    metadata = _known_network(path, session.metadata, reference)
    beside_it = manifest_path(path)
    manifest = read_manifest(path) if beside_it.is_file() else None
    usual = manifest.profiles[0]["lr"].optimum if manifest and manifest.profiles else None
    first = 1 if metadata.is_uint8 else 2
    sizes = session.sizes
    return Candidate(
        path=path,
        sha256=sha256_of(path),
        precision=manifest.precision if manifest else "float32",
        backend="engine",
        description=f"TensorRT {manifest.tensorrt}" if manifest else "TensorRT",
        stages=(Stage("engine", run_session(session, metadata)),),
        graph=None,
        session=lambda: open_session(path, backend="engine", trust=trust),
        feed=lambda lr: feed_of("lr", lr, metadata),
        tile=(usual[first], usual[first + 1]) if usual else (sizes[0].most if sizes else None),
        metadata=metadata,
        companions=(beside_it,) if manifest else (),
    )


def _known_network(path: Path, metadata: ModelMetadata, reference: Baseline) -> NetworkMetadata:
    """Metadata of the network, completed from the reference; refuses contradictions."""
    known = reference.metadata
    if wrong := metadata.contradictions(known, *NETWORK, "checkpoint_sha256"):
        raise CalibrationError(
            f"{path} is of another network than {reference.path}: it has {'; '.join(wrong)}. Give "
            "the checkpoint from which it was exported"
        )
    lacking = [name for name in NETWORK if getattr(metadata, name) is None]
    return replace(metadata, **{name: getattr(known, name) for name in lacking}).network


def _tile_models(paths: tuple[Path, ...], metadata: ModelMetadata) -> RunWithFactors:
    """Run both tile models on the whole image as one tile; refuses those of another model."""
    sessions = []
    for path in paths:
        found = read_onnx(path)
        if differs := found.metadata.difference(metadata):
            raise CalibrationError(f"{path} {differs} than the model that it lies beside")
        graph = evaluated(found.content, found.metadata)
        sessions.append(OnnxRuntimeSession(graph.SerializeToString()))
    tile, moments = sessions

    def run(lr: Batch) -> Output:
        std = std_from(moments, lr).astype(np.float32)
        return tile.run({"lr": lr, "std": std})["sr"], []

    return run
