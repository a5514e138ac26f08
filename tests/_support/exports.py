"""Traced networks, kept: tracing takes seconds, folding does not."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from onnx import numpy_helper

from _support.kept import kept
from _support.networks import random_network
from adadm.export import Checkpoint, Options, load_checkpoint, save_checkpoint
from adadm.export.assembly import assemble, bake_image_io
from adadm.export.limits import Limit, limits_of, set_limits
from adadm.export.networks import Network
from adadm.export.options import DEFAULTS
from adadm.export.passes import Decision
from adadm.export.tile_models import TileModels
from adadm.export.tracing import trace
from adadm.export.weights.hyperparameters import Hyperparameter


def kept_trace(make_network: Callable[[], Network], *key: object) -> tuple[Network, bytes]:
    """A network that is made, and its graph as a file."""

    network = make_network()

    def make(folder: Path) -> None:
        onnx.save(ir.to_proto(trace(network)), folder / "traced.onnx")
        torch.save(network.state_dict(), folder / "weights.pt")

    folder = kept(make, *key)
    network.load_state_dict(torch.load(folder / "weights.pt"))  # not near them, but equal
    return network, (folder / "traced.onnx").read_bytes()


def trace_like(network: Network) -> ir.Model:
    """What `trace` returns, from the graph of such a network with other weights."""
    size = sorted(network.hyperparameters.items())
    _, content = kept_trace(lambda: copy.deepcopy(network), "like", network.architecture, size)
    model = onnx.load_from_string(content)
    weights = network.root.state_dict()
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            values = weights[tensor.name].numpy()
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if f"{node.name}.{attribute.name}" in weights:  # of a modulator
                attribute.f = weights[f"{node.name}.{attribute.name}"].item()
    return ir.from_proto(model)


@functools.cache
def _traced(architecture: str, upscale: int, limit: Limit) -> tuple[Network, bytes]:
    def make() -> Network:
        network = random_network(architecture, upscale)
        set_limits(network, limit, {})
        return network

    key = () if limit == "off" else (limit,)
    return kept_trace(make, architecture, upscale, *key)


def traced(architecture: str, upscale: int, limit: Limit = "off") -> tuple[Network, ir.Model]:
    """A small non-neutral network and its graph, a fresh copy at each call."""
    network, content = _traced(architecture, upscale, limit)
    return network, ir.from_proto(onnx.load_from_string(content))


def exported(
    architecture: str, upscale: int, options: Options, limit: Limit = "off"
) -> tuple[Network, onnx.ModelProto, list[Decision]]:
    """The same in the form of some options, without the comparison with PyTorch."""
    network, model = traced(architecture, upscale, limit)
    assembled = assemble(model, _checkpoint(network).metadata, options)
    proto = assembled.model
    if options.io == "uint8":
        proto = bake_image_io(proto, network, options)
    return network, proto, assembled.decisions


def exported_tiles(
    architecture: str, upscale: int, options: Options, limit: Limit = "off"
) -> tuple[Network, onnx.ModelProto, TileModels]:
    """The same, and the two models for tiles."""
    network, model = traced(architecture, upscale, limit)
    external = dataclasses.replace(options, stats="external")
    assembled = assemble(model, _checkpoint(network).metadata, external)
    assert assembled.tiles is not None
    return network, assembled.model, assembled.tiles


def write_with_limits(path: Path, network: Network, options: Options = DEFAULTS) -> Path:
    """A checkpoint with its limits, and beside it its export, not compared with PyTorch."""
    save_checkpoint(path.with_suffix(".safetensors"), network)
    metadata = load_checkpoint(path.with_suffix(".safetensors")).metadata
    hyperparameters = sorted(network.hyperparameters.items())
    limits = sorted(limits_of(network).items())
    _, content = kept_trace(lambda: network, "with limits", hyperparameters, limits)
    model = ir.from_proto(onnx.load_from_string(content))
    onnx.save(assemble(model, metadata, options).model, path)
    return path


def _checkpoint(network: Network) -> Checkpoint:
    hyperparameters = {k: Hyperparameter(v, "tensors") for k, v in network.hyperparameters.items()}
    return Checkpoint(network, hyperparameters, Path("random.pt"), sha256="0" * 64)
