"""Trace a PyTorch network to an ONNX graph on onnx-ir, with one node for each modulator."""

from __future__ import annotations

import ast
import contextlib
import gc
import logging
import warnings
from collections.abc import Iterator
from unittest.mock import patch

import onnx_ir as ir
import onnx_ir.passes.common as common
import torch
from torch import nn
from torch.onnx import export

from adadm.export.networks import Network
from adadm.export.networks.blocks import Modulator
from adadm.export.operators import DOMAIN, DOMAIN_VERSION, update_functions
from adadm.export.operators.group_norm import GROUP_NORM
from adadm.export.operators.modulator import is_modulator
from adadm.runtime.errors import ExportError

TRACED_OPSET = 18
"""Oldest opset that torch.onnx emits directly."""

_group_norm = nn.functional.group_norm  # the original, which trace() replaces meanwhile

_SCOPES = "pkg.torch.onnx.name_scopes"


def trace(network: Network, *, free_sizes: bool = True) -> ir.Model:
    """Export a network in evaluation mode, unchanged.

    The graph reads `lr` (N, 3, H, W) and returns `sr` (N, 3, r*H, r*W), in the network's data
    type. Nodes and values carry the names of the PyTorch modules.

    Args:
        free_sizes: leave N, H and W free. Fixing them to an example takes a third less time, and
            suffices for reading nodes and weights.

    Raises:
        ExportError: torch.onnx cannot export the network.
    """
    for module in network.modules():
        if isinstance(module, Modulator):
            module.freeze()
    dtype = next(network.parameters()).dtype
    side = network.example_side
    # Distinct sizes, so that the exporter takes none for a constant.
    example = torch.zeros(2, 3, side, side + 2, dtype=dtype)
    group_norm = patch.object(nn.functional, "group_norm", _symbolic_group_norm)
    with _quiet_exporter(), _uncollected_garbage(), group_norm, torch.no_grad():
        try:
            program = export(
                network.root.eval(),
                (example,),
                dynamo=True,
                input_names=["lr"],
                output_names=["sr"],
                dynamic_shapes=({0: "N", 2: "H", 3: "W"},) if free_sizes else None,
                opset_version=TRACED_OPSET,
                optimize=False,
                verbose=False,
            )
        except Exception as error:
            sizes = "free sizes" if free_sizes else "fixed sizes"
            raise ExportError(
                f"torch.onnx cannot export {network.architecture} with {sizes}: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
    assert program is not None
    model = program.model
    model.producer_name, model.producer_version = "adadm-deploy", None
    _name_after_modules(model.graph)
    common.ClearMetadataAndDocStringPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=0)(model)
    update_functions(model)
    return model


def _symbolic_group_norm(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Replacement of `torch.nn.functional.group_norm`: one node for (N, C, H, W)."""
    if x.ndim != 4:
        return _group_norm(x, num_groups, weight, bias, eps)
    channels = x.shape[1]
    scale = torch.ones(channels, dtype=x.dtype) if weight is None else weight
    shift = torch.zeros(channels, dtype=x.dtype) if bias is None else bias
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{GROUP_NORM}",
        (x, scale, shift),
        attrs={"num_groups": num_groups, "epsilon": eps},
        dtype=x.dtype,
        shape=x.shape,
        version=DOMAIN_VERSION,
    )


def freeze_shape(model: ir.Model, shape: tuple[int, int, int], upscale: int) -> None:
    """Replace the free N, H and W of a graph by numbers in place."""
    batch, height, width = shape
    sizes: dict[str, int] = {"N": batch, "H": height, "W": width}
    sizes |= {f"{upscale}*H": upscale * height, f"{upscale}*W": upscale * width}
    for value in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs)):
        if value.shape is not None:
            frozen = [sizes.get(str(d), d) if not isinstance(d, int) else d for d in value.shape]
            value.shape = ir.Shape(frozen)


def _name_after_modules(graph: ir.Graph) -> None:
    """Name nodes and values after PyTorch modules, for TensorRT's layers and errors."""
    taken = {value.name for value in graph.inputs} | set(graph.initializers)
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "['']"))
        module = scopes[-2] if len(scopes) > 1 else ""
        owns_parameters = any(v is not None and v.is_initializer() for v in node.inputs)
        kind = node.op_type.lower()
        wanted = module if owns_parameters or is_modulator(node) else f"{module}.{kind}".strip(".")
        name, count = wanted or kind, 0
        while name in taken:
            count += 1
            name = f"{wanted}.{kind}_{count}"
        taken.add(name)
        node.name = name
        for index, value in enumerate(node.outputs):
            if not value.is_graph_output():
                value.name = name if index == 0 else f"{name}.{index}"


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's notices (no torchvision, deprecations in torch) on stderr."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _uncollected_garbage() -> Iterator[None]:
    """Leave cycles to the end: the exporter makes millions of objects, and few of them garbage.

    That saves a sixth of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
