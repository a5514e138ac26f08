"""Read state dicts from files, in any of the usual layouts.

Published state dicts are bare or nested under a key, with or without the prefix that `DataParallel`
or a training framework adds.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from adadm.runtime import json_format
from adadm.runtime.errors import CheckpointError

METADATA_KEY = "adadm"
_NESTED_UNDER = ("state_dict", "params_ema", "params", "model")
_PREFIXES = ("module.", "model.")
_KEYS_SHOWN = 12


def read_state_dict(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read the tensors of a file under the network's own keys, and our metadata if present.

    Args:
        path: `.pt` or `.pth` (tensors only) or `.safetensors`.

    Raises:
        CheckpointError: the file cannot be read, or holds no tensors.
    """
    if path.is_dir():
        raise CheckpointError(f"expected a .pt, .pth or .safetensors file, got the folder {path}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty; copy or download it again")
    readers = {".safetensors": _read_safetensors, ".pt": _read_pickle, ".pth": _read_pickle}
    if path.suffix not in readers:
        raise CheckpointError(
            f"{path}: expected the suffix {', '.join(readers)}, got {path.suffix or 'none'}"
        )
    content, metadata = readers[path.suffix](path)
    tensors = {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path}: expected the tensors of a state dict, bare or under "
            f"{', '.join(_NESTED_UNDER)}, got {some_names(sorted(map(str, content)))}"
        )
    return _strip_prefix(tensors), metadata


def _read_safetensors(path: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = _parse_metadata(path, (file.metadata() or {}).get(METADATA_KEY, "{}"))
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}); copy or download it again"
        ) from error


def _parse_metadata(path: Path, text: str) -> dict[str, Any]:
    """Parse our metadata: `architecture`, `hyperparameters` (numbers by name), and notes."""
    try:
        metadata: dict[str, Any] = json_format.parse_json(text)
        hyperparameters = metadata.get("hyperparameters", {})
        metadata["hyperparameters"] = {k: float(v) for k, v in hyperparameters.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path}: its metadata cannot be read ({error}): {text}") from error
    return metadata


def _read_pickle(path: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch.load raise anything
        wanted = re.search(r"(?:Unsupported global: )?GLOBAL (\S+)", str(error))
        if wanted:
            raise CheckpointError(
                f"{path} would run code on loading ({wanted[1]}) and was not loaded; save only "
                "its state_dict() and use that file"
            ) from error
        whole = zipfile.is_zipfile(path)
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise CheckpointError(
            f"{path} is {'damaged' if whole else 'truncated, or not a PyTorch checkpoint'} "
            f"({type(error).__name__}: {first_line})"
        ) from error
    for key in _NESTED_UNDER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    return content if isinstance(content, Mapping) else {f"a {type(content).__name__}": None}, {}


def _strip_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Drop prefixes that all keys share, in any order."""
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            return _strip_prefix({key.removeprefix(prefix): v for key, v in tensors.items()})
    return tensors


def some_names(names: Iterable[str]) -> str:
    """Format names for a message; a long list is cut, with the count of the rest."""
    listed = list(names)
    more = len(listed) - _KEYS_SHOWN
    return (", ".join(listed[:_KEYS_SHOWN]) or "none") + (f", and {more} more" if more > 0 else "")
