"""Checkpoints: recognising the network in a file, and refusing what does not fit.

Published checkpoints come without the hyper-parameters that no tensor shows. A loader that skips
what does not match would return a network with untrained layers, so this one refuses, and lists the
difference.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from adadm.export.limits import Limit, limits_of, set_limits
from adadm.export.networks import ARCHITECTURES, Network
from adadm.export.networks.custom import custom_network_class
from adadm.export.state_dict import METADATA_KEY, read_state_dict, some_names
from adadm.runtime.errors import CheckpointError
from adadm.runtime.files import sha256_of, written_whole
from adadm.runtime.models.metadata import NetworkMetadata


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
    def metadata(self) -> NetworkMetadata:
        """What every model of the checkpoint says of its network."""
        return NetworkMetadata(
            architecture=self.network.architecture,
            upscale=self.network.upscale,
            rgb_range=self.network.rgb_range,
            smallest_area=self.network.smallest_area,
            hyperparameters={
                name: {"source": parameter.source, "value": parameter.value}
                for name, parameter in sorted(self.hyperparameters.items())
            },
            checkpoint_sha256=self.sha256,
            limits=limits_of(self.network) or None,
        )

    @property
    def guesses(self) -> dict[str, float]:
        """The hyper-parameters that nothing in the file or on the command line confirms."""
        return {k: h.value for k, h in self.hyperparameters.items() if h.guessed}


def load_checkpoint(
    path: str | os.PathLike[str],
    arch: str = "auto",
    *,
    limit: Limit | None = None,
    **overrides: float | None,
) -> Checkpoint:
    """Read a checkpoint and build its network.

    Args:
        path: `.pt` or `.pth` (tensors only) or `.safetensors`.
        arch: a name in `ARCHITECTURES`, `auto` to recognise it from the tensors, or
            `package.module:factory` for a network of one's own.
        limit: of the deviation that the factors of modulators follow, as a multiple of that of
            training; `auto`, or None: the limits that the file has, or the usual multiple; `off`:
            no limit.
        **overrides: hyper-parameters that the tensors do not show (`template` and `choices` of the
            network); they overrule the file, and None is unset.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the network.
    """
    path = Path(path)
    state, metadata = read_state_dict(path)
    network_type = _architecture(path, state, metadata, arch)
    hyperparameters = _resolve(path, network_type, state, metadata, overrides)
    network = build_network(network_type, {k: h.value for k, h in hyperparameters.items()})
    _check_fit(path, network, state)
    network.root.load_state_dict(
        {k: v for k, v in state.items() if k in network.root.state_dict()}, strict=False
    )
    network = network.float().eval()
    set_limits(network, "auto" if limit is None else limit, metadata.get("limits", {}))
    return Checkpoint(network, hyperparameters, path, sha256_of(path))


def save_checkpoint(
    path: str | os.PathLike[str], network: Network, notes: Mapping[str, Any] | None = None
) -> None:
    """Write a network as safetensors; architecture, hyper-parameters and limits as metadata."""
    description = {
        "architecture": network.architecture,
        "hyperparameters": network.hyperparameters,
        **({"limits": limits} if (limits := limits_of(network)) else {}),
        **(notes or {}),
    }
    state = {k: v.contiguous().cpu() for k, v in network.root.state_dict().items()}
    metadata = {METADATA_KEY: json.dumps(description, sort_keys=True)}
    with written_whole(path) as partial:
        partial.write_bytes(safetensors.torch.save(state, metadata))


def network_class(arch: str) -> type[Network]:
    """The network class of a name in `ARCHITECTURES`, or of `package.module:factory`.

    Raises:
        CheckpointError: there is none.
    """
    if ":" in arch:
        return custom_network_class(arch)
    if arch not in ARCHITECTURES:
        raise CheckpointError(
            f"unknown architecture {arch}; known: {some_names(ARCHITECTURES)}, "
            "or package.module:factory for a network of your own"
        )
    return ARCHITECTURES[arch]


def build_network(network_type: type[Network], hyperparameters: Mapping[str, float]) -> Network:
    """Build a network of a class, untrained.

    Raises:
        CheckpointError: a hyper-parameter has a value that no network can have.
    """
    try:
        network = network_type(**hyperparameters)
    except (ValueError, TypeError, RuntimeError) as error:  # of a layer, whatever it is
        listed = ", ".join(f"{name} {value:g}" for name, value in hyperparameters.items())
        raise CheckpointError(
            f"no {network_type.architecture} can be built with {listed}: {error}"
        ) from error
    if network.rgb_range <= 0:
        raise CheckpointError(f"rgb_range is {network.rgb_range:g}, expected more than 0")
    return network


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
    expected = arch if arch != "auto" else some_names(ARCHITECTURES)
    raise CheckpointError(
        f"{path} is not recognised as {expected} with AdaDM; "
        f"its keys are {some_names(sorted(state))}"
    )


def _resolve(
    path: Path,
    network_type: type[Network],
    state: dict[str, torch.Tensor],
    metadata: dict[str, Any],
    overrides: Mapping[str, float | None],
) -> dict[str, Hyperparameter]:
    recorded = metadata.get("architecture", network_type.architecture)
    if recorded != network_type.architecture:
        raise CheckpointError(
            f"{path} says that it holds {recorded}, its tensors are {network_type.architecture}'s"
        )
    resolved = {
        name: Hyperparameter(value, "tensors")
        for name, value in network_type.read_hyperparameters(state).items()
    }
    stored = metadata.get("hyperparameters", {})
    flags = {name: value for name, value in overrides.items() if value is not None}
    undetectable = {**network_type.template, **network_type.choices}
    for name in flags.keys() & resolved.keys():
        if flags[name] != resolved[name].value:
            raise CheckpointError(
                f"{name} is {resolved[name].value:g} by the tensors of {path}, "
                f"given: {flags[name]:g}"
            )
    if unknown := sorted(flags.keys() - undetectable.keys() - resolved.keys()):
        raise CheckpointError(
            f"{network_type.architecture} has no hyper-parameter {some_names(unknown)} to set; "
            f"it has {some_names(undetectable)}"
        )
    for name, default in undetectable.items():
        if name in resolved:
            continue
        source = "choice" if name in network_type.choices else "template"
        value = None if isinstance(default, type) else default
        for values, place in ((stored, "file"), (flags, "flag")):
            if name in values:
                value, source = values[name], place
        if value is None:
            raise CheckpointError(
                f"{name} of {network_type.architecture} is in no tensor and has no published "
                f"value; give it by --{name.replace('_', '-')}, or to load_checkpoint"
            )
        kind = default if isinstance(default, type) else type(default)
        resolved[name] = Hyperparameter(_of_type(kind, name, value), source)
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
            f"  missing ({len(missing)}): {some_names(missing)}\n"
            f"  unexpected ({len(unexpected)}): {some_names(unexpected)}"
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
