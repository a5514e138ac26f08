"""PyTorch's exporter, run once for all networks of one content: it takes seconds each time."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from types import NoneType, SimpleNamespace
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import nn

from _support.kept import kept

_OF_THE_SOURCES = ("adadm.", "torch.", "_support.")
"""Modules that `kept` knows, or that do not change."""


def exporting_once(export: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose model is kept by what the network, the example and options are."""

    @functools.wraps(export)
    def kept_export(root: nn.Module, args: tuple[torch.Tensor, ...], **options: Any) -> Any:
        content = [*_content(root), args[0].dtype, args[0].shape, _plain(options)]
        if _UNKNOWN in content:
            return export(root, args, **options)

        def make(folder: Path) -> None:
            model = export(root, args, **options).model
            onnx.save(ir.to_proto(model), folder / "exported.onnx")

        key = hashlib.sha256(repr(content).encode()).hexdigest()
        folder = kept(make, key)
        return SimpleNamespace(model=ir.from_proto(onnx.load(folder / "exported.onnx")))

    return kept_export


_UNKNOWN = object()
"""What may be different though it looks equal."""


def _content(root: nn.Module) -> list[object]:
    """All that a network computes with, for an equal `repr` where it is equal."""
    content: list[object] = []
    for name, module in root.named_modules():
        kind = type(module)
        known = f"{kind.__module__}.".startswith(_OF_THE_SOURCES)
        content += [name, f"{kind.__module__}.{kind.__qualname__}" if known else _UNKNOWN]
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers"):
                content += [(each, _digest(tensor)) for each, tensor in value.items()]
            elif key != "_modules":
                content += [key, _plain(value)]
    return content


def _plain(value: object) -> object:
    """A value whose `repr` tells all of it, or `_UNKNOWN`."""
    if isinstance(value, (NoneType, bool, int, float, str, torch.dtype)):
        return value
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, (set, frozenset)):
        value = sorted(value)
    if isinstance(value, (list, tuple)):
        inside = [_plain(each) for each in value]
        return _UNKNOWN if _UNKNOWN in inside else inside
    return _UNKNOWN


def _digest(tensor: torch.Tensor | None) -> object:
    if tensor is None:
        return None
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return tensor.dtype, tuple(tensor.shape), hashlib.sha256(values.tobytes()).hexdigest()
