"""Hyper-parameters of a network: which value each has, and from where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adadm.export.networks import Network
from adadm.export.weights.file_content import some_names
from adadm.runtime.errors import CheckpointError
from adadm.runtime.models.metadata import Origin

_BEYOND_ALL = 2.0**53
"""From here on, floats have no fractions. An integer of a pickle may be beyond all floats."""


@dataclass(frozen=True)
class Hyperparameter:
    """A hyper-parameter of the network, and its source.

    Attributes:
        source: where it comes from; `template` is a guess.
    """

    value: float
    source: Origin

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


def recorded_values(
    mappings: Mapping[tuple[str, ...], Mapping[str, Any]], types: Iterable[type[Network]]
) -> dict[str, float]:
    """Values that a training program saved beside the weights under a hyper-parameter's name.

    One that is there with several values, or with an impossible one, is left out.
    """
    found = {}
    for name, default in {k: v for each in types for k, v in each.template.items()}.items():
        values = {entries[name] for entries in mappings.values() if _is_number(entries.get(name))}
        value = values.pop() if len(values) == 1 else 0
        takes_fractions = type(default) is float or default is float
        if value > 0 and (takes_fractions or value == int(value)):
            found[name] = value
    return found


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < _BEYOND_ALL  # type: ignore[arg-type]


def resolve(
    path: Path,
    network_type: type[Network],
    state: Mapping[str, torch.Tensor],
    metadata: dict[str, Any],
    overrides: Mapping[str, float | None],
) -> dict[str, Hyperparameter]:
    """Find the hyper-parameters of a network: from tensors, flags, the file, or the template.

    Args:
        metadata: ours, from the file.
        overrides: values of flags.

    Raises:
        CheckpointError: two places contradict each other, a name or a value is wrong, or a value
            is nowhere.
    """
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
        source: Origin = "choice" if name in network_type.choices else "template"
        value = None if isinstance(default, type) else default
        if name in stored:
            value, source = stored[name], "file"
        if name in flags:
            value, source = flags[name], "flag"
        if value is None:
            norms = name == "norm_groups"
            lost = "; with batch normalization, the file lacks its running statistics"
            raise CheckpointError(
                f"{name} of {network_type.architecture} is not in the tensors and has no published "
                f"value; give it by --{name.replace('_', '-')}, or to load_checkpoint"
                f"{lost if norms else ''}"
            )
        kind = default if isinstance(default, type) else type(default)
        resolved[name] = Hyperparameter(_of_type(kind, name, value), source)
    return resolved


def _of_type(kind: type[float], name: str, value: float) -> float:
    """Check that a number is finite, and an integer if `kind` is int."""
    if not abs(value) < _BEYOND_ALL:
        raise CheckpointError(f"{name}: expected a finite number below 2**53, got {value}")
    if kind is not int:
        return float(value)
    if value != int(value) or value < 0:
        raise CheckpointError(f"{name}: expected an integer, 0 or more, got {value:g}")
    return int(value)
