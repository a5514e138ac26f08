"""Checkpoints: recognise the network in a file, and refuse a file that does not fit.

Published checkpoints lack the hyper-parameters that no tensor shows. A loader that skipped
mismatched tensors would return a network with untrained layers, so this one refuses and lists the
differences.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from adadm.export.graph.channels import are_initial
from adadm.export.limits import Limit, limits_of, set_limits
from adadm.export.networks import ARCHITECTURES, Network
from adadm.export.networks.custom import custom_network_class
from adadm.export.state_dict import METADATA_KEY, read_state_dict, some_names
from adadm.runtime.errors import CheckpointError
from adadm.runtime.files import sha256_of, written_whole
from adadm.runtime.models.metadata import NetworkMetadata

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hyperparameter:
    """A hyper-parameter of the network, and its source.

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
            "choice": "our choice",
            "template": "GUESSED: the published template's value",
        }
        return f"{self.value:g} ({words[self.source]})"


@dataclass(frozen=True)
class Checkpoint:
    """A network with its trained weights in evaluation mode, and its origin."""

    network: Network
    hyperparameters: dict[str, Hyperparameter]
    path: Path
    sha256: str

    @property
    def metadata(self) -> NetworkMetadata:
        """Metadata of the network, for every model of the checkpoint."""
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
        """Hyper-parameters that neither the file nor the caller confirms."""
        return {k: h.value for k, h in self.hyperparameters.items() if h.guessed}


def load_checkpoint(
    path: str | os.PathLike[str],
    arch: str = "auto",
    *,
    limit: Limit | None = None,
    **overrides: float | None,
) -> Checkpoint:
    """Read a checkpoint, and build its network.

    Logs a warning that names the batch normalizations of `never_updated`.

    Args:
        path: `.pt` or `.pth` (tensors only) or `.safetensors`.
        arch: a name in `ARCHITECTURES`, `auto` to recognise it from the tensors, or
            `package.module:factory` for a custom network.
        limit: limit of the deviation that the factors of modulators follow, as a multiple of that
            of training; `auto` or None for the limits in the file, else the usual multiple; `off`
            for no limit.
        **overrides: hyper-parameters that the tensors do not show (`template` and `choices` of the
            network); they override the file, except None.

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
    if new := never_updated(network):
        _logger.warning(
            "WARNING: %s: the running statistics of %d batch normalizations were never updated "
            "(means 0, variances 1): %s. The network does not compute what it computed in "
            "training; update them by running it in training mode on training data, and save it "
            "again",
            *(path, len(new), some_names(new)),
        )
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


def never_updated(network: Network) -> list[str]:
    """Names of the batch normalizations whose running statistics are those of a new one.

    The number of batches that PyTorch counts is not asked: many files lack it.
    """
    return [
        name
        for name, module in network.root.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        and module.running_mean is not None
        and module.running_var is not None
        and are_initial(module.running_mean.numpy(), module.running_var.numpy())
    ]


def network_class(arch: str) -> type[Network]:
    """Network class by a name in `ARCHITECTURES` or by `package.module:factory`.

    Raises:
        CheckpointError: there is no such class.
    """
    if ":" in arch:
        return custom_network_class(arch)
    if arch not in ARCHITECTURES:
        raise CheckpointError(
            f"expected architecture {some_names(ARCHITECTURES)}, or package.module:factory for "
            f"your own network, got {arch}"
        )
    return ARCHITECTURES[arch]


def build_network(network_type: type[Network], hyperparameters: Mapping[str, float]) -> Network:
    """Build an untrained network.

    Raises:
        CheckpointError: a hyper-parameter has an invalid value.
    """
    try:
        network = network_type(**hyperparameters)
    except (ValueError, TypeError, RuntimeError) as error:  # raised by some layer
        listed = ", ".join(f"{name} {value:g}" for name, value in hyperparameters.items())
        raise CheckpointError(
            f"cannot build {network_type.architecture} with {listed}: {error}"
        ) from error
    if network.rgb_range <= 0:
        raise CheckpointError(f"rgb_range: expected a number above 0, got {network.rgb_range:g}")
    return network


def _architecture(
    path: Path, state: dict[str, torch.Tensor], metadata: dict[str, Any], arch: str
) -> type[Network]:
    recorded = str(metadata.get("architecture", ""))
    if arch == "auto" and ":" in recorded:
        raise CheckpointError(
            f"{path} names {recorded} as the builder of its network, which would run code; "
            f"if you trust it, give --arch {recorded}"
        )
    candidates = list(ARCHITECTURES.values()) if arch == "auto" else [network_class(arch)]
    for candidate in candidates:
        if candidate.detects(state):
            return candidate
    expected = arch if arch != "auto" else some_names(ARCHITECTURES)
    raise CheckpointError(
        f"{path}: expected tensors of {expected} with AdaDM, got the keys "
        f"{some_names(sorted(state))}"
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
            f"{path}: expected tensors of {recorded}, as its metadata states, got those of "
            f"{network_type.architecture}"
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
                f"{name}: expected {resolved[name].value:g}, as the tensors of {path} show, got "
                f"{flags[name]:g}"
            )
    if unknown := sorted(flags.keys() - undetectable.keys() - resolved.keys()):
        raise CheckpointError(
            f"{network_type.architecture}: expected hyper-parameters among "
            f"{some_names(undetectable)}, got {some_names(unknown)}"
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
                f"{name} of {network_type.architecture} is not in the tensors and has no published "
                f"value; give it by --{name.replace('_', '-')}, or to load_checkpoint"
            )
        kind = default if isinstance(default, type) else type(default)
        resolved[name] = Hyperparameter(_of_type(kind, name, value), source)
    return resolved


def _of_type(kind: type[float], name: str, value: float) -> float:
    """Check that a number is finite, and an integer if `kind` is int."""
    if not math.isfinite(value):
        raise CheckpointError(f"{name}: expected a finite number, got {value}")
    if kind is not int:
        return float(value)
    if value != int(value) or value < 0:
        raise CheckpointError(f"{name}: expected an integer, 0 or more, got {value:g}")
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
                f"{path}: {key}: expected shape {tuple(expected[key].shape)}, "
                f"got {tuple(tensor.shape)}"
            )
        if not torch.isfinite(tensor.float()).all():
            raise CheckpointError(
                f"{path}: {key} has NaN or infinite values; check that training converged"
            )
        if key.endswith("running_var") and (lowest := tensor.min().item()) <= 0:
            raise CheckpointError(
                f"{path}: {key}: expected running variances above 0, got {lowest:g}"
            )
