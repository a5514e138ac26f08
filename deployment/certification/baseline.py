"""The reference of a certificate: the network as it was trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnx_ir as ir

from adadm.calibration.quality.ledger import Stage
from adadm.calibration.source_network import load_source_network
from adadm.deployment.certification.reached_limits import Unlimited, block_name
from adadm.deployment.certification.running import evaluated, precision_of, run_graph, split_outputs
from adadm.export.assembly import assemble
from adadm.export.limits import Limit
from adadm.export.networks.network import named_modulators
from adadm.export.operators.modulator import find_inlined
from adadm.export.options import DEFAULTS
from adadm.export.proof.pytorch import run_network, run_with_factors
from adadm.runtime.errors import CalibrationError
from adadm.runtime.images.arrays import Batch
from adadm.runtime.models.bundled import is_engine, is_onnx
from adadm.runtime.models.metadata import NETWORK, NetworkMetadata
from adadm.runtime.models.onnx_reader import read_onnx
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession


@dataclass(frozen=True)
class Baseline:
    """The network that a model is compared with.

    Attributes:
        description: software that runs it.
        stages: the reference; for a checkpoint also its float32 export, which separates the loss by
            export from that by lowering.
        run: the reference without its factors, for timing.
        graph: float32 graph, for comparing layers.
        blocks: names of the modulated blocks, in graph order.
        unlimited: the reference without its limits; None if its graph has them in an unknown form.
    """

    path: Path
    sha256: str
    description: str
    stages: tuple[Stage, ...]
    run: Callable[[Batch], Batch]
    graph: onnx.ModelProto
    blocks: tuple[str, ...]
    metadata: NetworkMetadata
    unlimited: Unlimited | None


def load_baseline(
    path: Path,
    arch: str = "auto",
    *,
    limit: Limit | None = None,
    weights: str | None = None,
    **given: float | None,
) -> Baseline:
    """Load a checkpoint into PyTorch, or an ONNX model into ONNX Runtime.

    Args:
        arch, limit, weights, given: for a checkpoint, as in `load_checkpoint`.

    Raises:
        CheckpointError: the checkpoint cannot be read, or does not fit a network.
        EngineError: the ONNX file cannot be read.
        CalibrationError: the file lacks the network's metadata, or is an engine.
    """
    if is_engine(path):
        raise CalibrationError(
            f"expected a checkpoint or an ONNX model as reference, got the engine {path}"
        )
    if is_onnx(path):
        model = read_onnx(path)
        if missing := model.metadata.missing(*NETWORK):
            raise CalibrationError(
                f"{path} was not written by adadm (its metadata lacks {', '.join(missing)}), so "
                "it cannot be a reference; give the checkpoint"
            )
        graph = evaluated(model.content, model.metadata)
        description = f"ONNX Runtime, {precision_of(graph, model.metadata)}"
        run = run_graph(graph, model.metadata)
        inlined = find_inlined(ir.from_proto(graph).graph)
        blocks = tuple(block_name(str(modulator.result.name)) for modulator in inlined)
        return Baseline(
            path=path,
            sha256=model.sha256,
            description=description,
            stages=(Stage("reference", run),),
            run=lambda lr: run(lr)[0],
            graph=graph,
            blocks=blocks,
            metadata=model.metadata.network,
            unlimited=Unlimited.of_graph(graph, blocks, model.metadata),
        )
    source = load_source_network(path, arch, free_sizes=True, limit=limit, weights=weights, **given)
    network = source.network
    assert network is not None  # the file is not ONNX
    options = replace(DEFAULTS, factors=True)
    graph = assemble(source.model.clone(), source.metadata, options).model
    exported = OnnxRuntimeSession(graph.SerializeToString())
    return Baseline(
        path=path,
        sha256=source.sha256,
        description="PyTorch",
        stages=(
            Stage("PyTorch", lambda lr: run_with_factors(network, lr)),
            Stage("float32 export", lambda lr: split_outputs(exported, {"lr": lr})),
        ),
        run=lambda lr: run_network(network, lr),
        graph=graph,
        blocks=tuple(map(block_name, named_modulators(network))),
        metadata=source.metadata,
        unlimited=Unlimited.of_network(network),
    )
