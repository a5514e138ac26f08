"""Traced networks, made once: tracing takes seconds, folding does not."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import onnx
import onnx_ir as ir

from _support.networks import random_network
from adadm.export import Checkpoint, Options
from adadm.export.assembly import assemble, bake_image_io
from adadm.export.checkpoint import Hyperparameter
from adadm.export.networks import Network
from adadm.export.passes import Decision
from adadm.export.tile_models import TileModels
from adadm.export.tracing import trace


@functools.cache
def _traced(architecture: str, upscale: int) -> tuple[Network, bytes]:
    network = random_network(architecture, upscale)
    return network, ir.to_proto(trace(network)).SerializeToString()


def traced(architecture: str, upscale: int) -> tuple[Network, ir.Model]:
    """A small non-neutral network and its graph, a fresh copy at each call."""
    network, content = _traced(architecture, upscale)
    return network, ir.from_proto(onnx.load_from_string(content))


def exported(
    architecture: str, upscale: int, options: Options
) -> tuple[Network, onnx.ModelProto, list[Decision]]:
    """The same in the form of some options, without the comparison with PyTorch."""
    network, model = traced(architecture, upscale)
    assembled = assemble(model, _checkpoint(network).metadata, options)
    proto = assembled.model
    if options.io == "uint8":
        proto = bake_image_io(proto, network, options)
    return network, proto, assembled.decisions


def exported_tiles(
    architecture: str, upscale: int, options: Options
) -> tuple[Network, onnx.ModelProto, TileModels]:
    """The same, and the two models for tiles."""
    network, model = traced(architecture, upscale)
    external = dataclasses.replace(options, stats="external")
    assembled = assemble(model, _checkpoint(network).metadata, external)
    assert assembled.tiles is not None
    return network, assembled.model, assembled.tiles


def _checkpoint(network: Network) -> Checkpoint:
    hyperparameters = {k: Hyperparameter(v, "tensors") for k, v in network.hyperparameters.items()}
    return Checkpoint(network, hyperparameters, Path("random.pt"), sha256="0" * 64)
