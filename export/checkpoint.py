"""Checkpoints: reading a file, recognising the network in it, and refusing what does not fit.

Published checkpoints come as a bare state dict or nested under a key, with or without the prefix
that `DataParallel` or a training framework adds, and without the hyper-parameters that no tensor
shows. A loader that skips what does not match would return a network with untrained layers, so
this one refuses, and lists the difference.
"""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from adadm.export.models import ARCHITECTURES, Network
from adadm.export.models.custom import custom_network_class
from adadm.runtime.errors import CheckpointError
from adadm.runtime.files import sha256_of, written_whole

__all__ = ["Checkpoint", "Hyperparameter", "load_checkpoint", "network_class", "save_checkpoint"]

_NESTED_UNDER = ("state_dict", "params_ema", "params", "model")
_PREFIXES = ("module.", "model.")
_METADATA_KEY = "adadm"
_KEYS_SHOWN = 12


@dataclass(frozen=True)
class Hyperparameter:
    """A number that builds the network, and where it was found.

    Attributes:
        source: `tensors`, `flag`, `file`, `choice` or `template`; the last is a guess.
    """

    value: float
    source: str

    @property
    def guessed(self) -> bool:
        return self.source == "template"

    def __str__(self) -> str:
        words = {
            "tensors": "read from the tensors",
            "flag": "given on the command line",
            "file": "from the file's metadata",
            "choice": "ours to choose",
            "template": "GUESSED: the published template's value",
        }
        return f"{self.value:g} ({words[self.source]})"


@dataclass(frozen=True)
class Checkpoint:
    """A network with its trained weights, in evaluation mode, and where it came from."""

    network: Network
    hyperparameters: dict[str, Hyperparameter]
    path: Path
    sha256: str

    @property
    def guesses(self) -> dict[str, float]:
        """The hyper-parameters that nothing in the file or on the command line confirms."""
        return {k: h.value for k, h in self.hyperparameters.items() if h.guessed}


def load_checkpoint(
    path: str | os.PathLike[str], arch: str = "auto", **given: float | None
) -> Checkpoint:
    """Read a checkpoint and build its network.

    Args:
        path: `.pt` or `.pth` (tensors only) or `.safetensors`.
        arch: a name in `ARCHITECTURES`, `auto` to recognise it from the tensors, or
            `package.module:factory` for a network of one's own.
        **given: hyper-parameters that the tensors do not show (`template` and `choices` of the
            network); they overrule the file, and None is unset.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the network.
    """
    path = Path(path)
    tensors, metadata = _read_tensors(path)
    state = _strip_prefix(tensors)
    found_class = _architecture(path, state, metadata, arch)
    hyperparameters = _resolve(path, found_class, state, metadata, given)
    network = found_class(**{k: h.value for k, h in hyperparameters.items()})
    _check_fit(path, network, state)
    network.root.load_state_dict(
        {k: v for k, v in state.items() if k in network.root.state_dict()}, strict=False
    )
    return Checkpoint(network.float().eval(), hyperparameters, path, sha256_of(path))


def save_checkpoint(
    path: str | os.PathLike[str], network: Network, notes: Mapping[str, Any] | None = None
) -> None:
    """Write a network as safetensors, its architecture and hyper-parameters in the metadata."""
    description = {
        "architecture": network.architecture,
        "hyperparameters": network.hyperparameters,
        **(notes or {}),
    }
    state = {k: v.contiguous().cpu() for k, v in network.root.state_dict().items()}
    with written_whole(path) as partial:
        safetensors.torch.save_file(
            state, partial, metadata={_METADATA_KEY: json.dumps(description, sort_keys=True)}
        )


def _read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a file under their own keys, and our metadata if it has any."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory; expected a .pt, .pth or .safetensors file")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty; copy or download it again")
    readers = {".safetensors": _read_safetensors, ".pt": _read_pickle, ".pth": _read_pickle}
    if path.suffix not in readers:
        raise CheckpointError(
            f"{path} ends in {path.suffix or 'no suffix'}; expected one of {', '.join(readers)}"
        )
    content, metadata = readers[path.suffix](path)
    tensors = {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path} holds no tensors (found: {_shown(sorted(map(str, content)))}); expected a "
            f"state dict, bare or under one of {', '.join(_NESTED_UNDER)}"
        )
    return tensors, metadata


def _read_safetensors(path: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = _parse_metadata(path, (file.metadata() or {}).get(_METADATA_KEY, "{}"))
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is no readable safetensors file ({error}); it may be truncated"
        ) from error


def _parse_metadata(path: Path, text: str) -> dict[str, Any]:
    """Our metadata: `architecture` and `hyperparameters` (numbers by name), and notes."""
    try:
        metadata: dict[str, Any] = json.loads(text)
        hyperparameters = metadata.get("hyperparameters", {})
        metadata["hyperparameters"] = {k: float(v) for k, v in hyperparameters.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path}: its metadata cannot be read ({error}): {text}") from error
    return metadata


def _read_pickle(path: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever a damaged file makes it raise
        wanted = re.search(r"(?:Unsupported global: )?GLOBAL (\S+)", str(error))
        if wanted:
            raise CheckpointError(
                f"{path} wants to run code on loading ({wanted[1]}), so it was not loaded; "
                "save its state_dict() alone and use that file"
            ) from error
        whole = zipfile.is_zipfile(path)
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise CheckpointError(
            f"{path} is {'damaged' if whole else 'truncated, or no PyTorch checkpoint'} "
            f"({type(error).__name__}: {first_line})"
        ) from error
    for key in _NESTED_UNDER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    return content if isinstance(content, Mapping) else {f"a {type(content).__name__}": None}, {}


def _strip_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Drop prefixes that every key has, in whatever order wrappers added them."""
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            return _strip_prefix({key.removeprefix(prefix): v for key, v in tensors.items()})
    return tensors


def network_class(arch: str) -> type[Network]:
    """The network class of a name in `ARCHITECTURES`, or of `package.module:factory`.

    Raises:
        CheckpointError: there is none.
    """
    if ":" in arch:
        return custom_network_class(arch)
    if arch not in ARCHITECTURES:
        raise CheckpointError(
            f"unknown architecture {arch}; known: {_shown(ARCHITECTURES)}, "
            "or package.module:factory for a network of your own"
        )
    return ARCHITECTURES[arch]


def _architecture(
    path: Path, state: dict[str, torch.Tensor], metadata: dict[str, Any], arch: str
) -> type[Network]:
    recorded = str(metadata.get("architecture", ""))
    if arch == "auto" and ":" in recorded:
        raise CheckpointError(
            f"{path} says that {recorded} builds its network, which would run code; "
            f"if you trust it, give --arch {recorded}"
        )
    candidates = list(ARCHITECTURES.values()) if arch == "auto" else [network_class(arch)]
    for candidate in candidates:
        if candidate.detects(state):
            return candidate
    expected = arch if arch != "auto" else _shown(ARCHITECTURES)
    raise CheckpointError(
        f"{path} is not recognised as {expected} with AdaDM; its keys are {_shown(sorted(state))}"
    )


def _resolve(
    path: Path,
    found_class: type[Network],
    state: dict[str, torch.Tensor],
    metadata: dict[str, Any],
    given: Mapping[str, float | None],
) -> dict[str, Hyperparameter]:
    recorded = metadata.get("architecture", found_class.architecture)
    if recorded != found_class.architecture:
        raise CheckpointError(
            f"{path} says that it holds {recorded}, its tensors are {found_class.architecture}'s"
        )
    resolved = {
        name: Hyperparameter(value, "tensors")
        for name, value in found_class.read_hyperparameters(state).items()
    }
    stored = metadata.get("hyperparameters", {})
    flags = {name: value for name, value in given.items() if value is not None}
    hidden = {**found_class.template, **found_class.choices}
    for name in flags.keys() & resolved.keys():
        if flags[name] != resolved[name].value:
            raise CheckpointError(
                f"{name} is {resolved[name].value:g} by the tensors of {path}, "
                f"given: {flags[name]:g}"
            )
    if unknown := sorted(flags.keys() - hidden.keys() - resolved.keys()):
        raise CheckpointError(
            f"{found_class.architecture} has no hyper-parameter {_shown(unknown)} to set; "
            f"it has {_shown(hidden)}"
        )
    for name, default in hidden.items():
        if name in resolved:
            continue
        source = "choice" if name in found_class.choices else "template"
        value = None if isinstance(default, type) else default
        for values, place in ((stored, "file"), (flags, "flag")):
            if name in values:
                value, source = values[name], place
        if value is None:
            raise CheckpointError(
                f"{name} of {found_class.architecture} is in no tensor and has no published "
                f"value; give it by --{name.replace('_', '-')}"
            )
        kind = default if isinstance(default, type) else type(default)
        resolved[name] = Hyperparameter(_of_type(kind, name, value), source)
    if resolved["rgb_range"].value <= 0:
        raise CheckpointError(f"rgb_range is {resolved['rgb_range'].value:g}, expected more than 0")
    return resolved


def _of_type(kind: type[float], name: str, value: float) -> float:
    """A finite number, and a whole one where it has to be."""
    if not math.isfinite(value):
        raise CheckpointError(f"{name} is {value}, expected a finite number")
    if kind is not int:
        return float(value)
    if value != int(value) or value < 0:
        raise CheckpointError(f"{name} is {value:g}, expected a whole number")
    return int(value)


def _check_fit(path: Path, network: Network, state: Mapping[str, torch.Tensor]) -> None:
    expected = network.root.state_dict()
    optional = {key for key in expected if key.endswith("num_batches_tracked")}
    missing = sorted(expected.keys() - state.keys() - optional)
    unexpected = sorted(state.keys() - expected.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"{path} is not a complete {network.architecture} with AdaDM\n"
            f"  missing ({len(missing)}): {_shown(missing)}\n"
            f"  unexpected ({len(unexpected)}): {_shown(unexpected)}"
        )
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape:
            raise CheckpointError(
                f"{path}: {key} has the shape {tuple(tensor.shape)}, "
                f"expected {tuple(expected[key].shape)}"
            )
        if not torch.isfinite(tensor.float()).all():
            raise CheckpointError(f"{path}: {key} has NaN or infinite values; training diverged?")
        if key.endswith("running_var") and (lowest := tensor.min().item()) <= 0:
            raise CheckpointError(
                f"{path}: {key} has the value {lowest:g}; a running variance is greater than 0"
            )


def _shown(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _KEYS_SHOWN
    return (", ".join(listed[:_KEYS_SHOWN]) or "none") + (f", and {more} more" if more > 0 else "")
