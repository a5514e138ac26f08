"""Checkpoints: recognise the network in a file, and refuse a file that does not fit.

Published checkpoints lack the hyper-parameters that no tensor shows. A loader that skipped
mismatched tensors would return a network with untrained layers, so this one refuses and lists the
differences.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from adadm.export.graph.channels import are_initial
from adadm.export.limits import Limit, limits_of, set_limits
from adadm.export.networks import ARCHITECTURES, Network
from adadm.export.networks.custom import custom_network_class
from adadm.export.weights.dense_tensors import check_dense
from adadm.export.weights.file_content import METADATA_KEY, read_file, some_names
from adadm.export.weights.fit import check_fit, of_other_modules, unknown
from adadm.export.weights.hyperparameters import Hyperparameter, recorded_values, resolve
from adadm.export.weights.state_dicts import (
    FoundWeights,
    TakenWeights,
    choose,
    count_dropped,
    find_weights,
    is_averaged,
    mappings_of,
    tensors_in,
)
from adadm.runtime.errors import CheckpointError
from adadm.runtime.files import sha256_of, written_whole
from adadm.runtime.models.metadata import RGB_RANGES, NetworkMetadata

_logger = logging.getLogger(__name__)

_MOST_BLOCKS = 1000
"""Published networks have up to 32. Of a file that has a key for each, building takes minutes."""


@dataclass(frozen=True)
class Checkpoint:
    """A network with its trained weights in evaluation mode, and its origin."""

    network: Network
    hyperparameters: dict[str, Hyperparameter]
    path: Path
    sha256: str
    weights: TakenWeights = field(default_factory=TakenWeights)

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
    weights: str | None = None,
    **overrides: float | None,
) -> Checkpoint:
    """Read a checkpoint, and build its network.

    The state dict may lie under any key, and its keys may share any prefix. Of several an averaged
    copy (EMA) is taken, else the largest, else the first. Logs a warning that names the others, and
    one that names the batch normalizations of `never_updated`.

    Args:
        path: a file of `torch.save` without code, or safetensors, of any name.
        arch: a name in `ARCHITECTURES`, `auto` to recognise it from the tensors, or
            `package.module:factory` for a custom network.
        limit: limit of the deviation that the factors of modulators follow, as a multiple of that
            of training; `auto` or None for the limits in the file, else the usual multiple; `off`
            for no limit.
        weights: key of the state dict to take, such as `params_ema`, or its last words.
        **overrides: hyper-parameters that the tensors do not show (`template` and `choices` of the
            network); they override the file, except None.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the network.
    """
    path = Path(path)
    content, metadata = read_file(path)
    mappings = mappings_of(content)
    types = _network_types(path, metadata, arch)
    found = find_weights(mappings, lambda state: any(t.detects(state) for t in types))
    if not found:
        raise _nothing_found(path, content, mappings, types)
    beside = {**recorded_values(mappings, types), **metadata.get("hyperparameters", {})}
    network, hyperparameters, taken = _first_that_fits(
        path,
        choose(path, found, weights) if weights else found,
        types,
        {**metadata, "hyperparameters": beside},
        overrides,
    )
    others = [
        other
        for other in found
        if other.key != taken.key
        and not other.is_copy_of(taken)
        and 2 * len(other.tensors) >= len(taken.tensors)
    ]
    noted = TakenWeights(
        key=taken.key,
        prefix=taken.prefix,
        weight_norms=taken.weight_norms,
        others=tuple(other.key for other in others),
        dropped=count_dropped(mappings, [taken, *others]),
    )
    _warn(path, network, noted, chosen=weights is not None)
    set_limits(network, "auto" if limit is None else limit, metadata.get("limits", {}))
    return Checkpoint(network, hyperparameters, path, sha256_of(path), noted)


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
    for name in ("blocks", "layers"):
        if (count := hyperparameters.get(name, 0)) > _MOST_BLOCKS:
            raise CheckpointError(f"{name}: expected at most {_MOST_BLOCKS}, got {count:g}")
    try:
        network = network_type(**hyperparameters)
    except (ValueError, TypeError, RuntimeError) as error:  # raised by some layer
        listed = ", ".join(f"{name} {value:g}" for name, value in hyperparameters.items())
        raise CheckpointError(
            f"cannot build {network_type.architecture} with {listed}: {error}"
        ) from error
    if not RGB_RANGES.test(network.rgb_range):
        raise CheckpointError(
            f"rgb_range: expected {RGB_RANGES.described}, got {network.rgb_range:g}"
        )
    return network


def _network_types(path: Path, metadata: dict[str, Any], arch: str) -> list[type[Network]]:
    recorded = str(metadata.get("architecture", ""))
    if arch == "auto" and ":" in recorded:
        raise CheckpointError(
            f"{path} names {recorded} as the builder of its network, which would run code; "
            f"if you trust it, give --arch {recorded}"
        )
    return list(ARCHITECTURES.values()) if arch == "auto" else [network_class(arch)]


def _nothing_found(
    path: Path,
    content: Any,
    mappings: Mapping[tuple[str, ...], Mapping[str, Any]],
    types: list[type[Network]],
) -> CheckpointError:
    largest = max((tensors_in(entries) for entries in mappings.values()), key=len, default={})
    if largest:
        return unknown(path, some_names(each.architecture for each in types), largest.keys())
    kind = f"a {type(content).__name__}"
    got = some_names(sorted(mappings.get((), ()))) if isinstance(content, dict) else kind
    return CheckpointError(
        f"{path}: expected the tensors of a state dict, bare or under any key, got {got}"
    )


def _first_that_fits(
    path: Path,
    candidates: list[FoundWeights],
    types: list[type[Network]],
    metadata: dict[str, Any],
    overrides: Mapping[str, float | None],
) -> tuple[Network, dict[str, Hyperparameter], FoundWeights]:
    """Build the network of the first candidate that is complete."""
    refused: dict[str, CheckpointError] = {}
    for candidate in candidates:
        network_type = next(each for each in types if each.detects(candidate.tensors))
        try:
            check_dense(path, candidate.tensors)
            hyperparameters = resolve(path, network_type, candidate.tensors, metadata, overrides)
            values = {name: parameter.value for name, parameter in hyperparameters.items()}
            is_ours = network_type in ARCHITECTURES.values()
            with torch.device("meta" if is_ours else "cpu"):  # the file says how large it is
                outline = build_network(network_type, values)
            taken = candidate.without(of_other_modules(outline, candidate.tensors.keys()))
            check_fit(path, outline, taken.tensors)
            network = build_network(network_type, values) if is_ours else outline
        except CheckpointError as error:
            refused[candidate.key] = error
            continue
        for key, problem in refused.items():
            reason = str(problem).partition("\n")[0]
            _logger.warning("WARNING: %s is not taken, but %s: %s", key, taken.key, reason)
        network.root.load_state_dict(dict(taken.tensors), strict=False)
        return network.float().eval(), hyperparameters, taken
    raise next(iter(refused.values()))


def _lost_averages(network: Network, weights: TakenWeights) -> list[str]:
    """What was dropped, is named like averaged weights, and is as many tensors as a network."""
    if is_averaged(weights.key):
        return []
    least = len(list(network.parameters())) / 2
    return [name for name, n in weights.dropped.items() if n >= least and is_averaged(name)]


def _warn(path: Path, network: Network, weights: TakenWeights, *, chosen: bool) -> None:
    if weights.others and not chosen:
        _logger.warning("WARNING: %s: more than one network. %s", path, weights)
    elif not chosen and (lost := _lost_averages(network, weights)):
        _logger.warning(
            "WARNING: %s: %s may hold averaged weights, which are the better ones, in a form that "
            "is not read",
            *(path, some_names(lost)),
        )
    if new := never_updated(network):
        _logger.warning(
            "WARNING: %s: the running statistics of %d batch normalizations were never updated "
            "(means 0, variances 1): %s. The network does not compute what it computed in "
            "training; update them by running it in training mode on training data, and save it "
            "again",
            *(path, len(new), some_names(new)),
        )
