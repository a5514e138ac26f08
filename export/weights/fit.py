"""Check that a state dict is that of a network, and say what a misfit looks like."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from adadm.export.networks import Network
from adadm.export.weights.file_content import JOIN, some_names
from adadm.runtime.errors import CheckpointError

_OTHER_MODULES = re.compile(
    r"(?i)\w*(criteri|loss|discriminator|perceptual|vgg|lpips|metric|psnr|ssim|n_averaged)|netD\b"
)
"""First words of keys that lie beside a network's own and never belong to one."""

_COUNTERS = ("total_ops", "total_params")
"""Buffers that thop, which counts operations, leaves in each module."""

_OTHER_NETWORKS = (
    (r"(body\.0\.rdb1|RRDB_trunk\.0|model\.1\.sub\.0)\.", "ESRGAN (RRDBNet)"),
    (r"layers\.0\.residual_group\.", "SwinIR"),
    (r"body\.0\.body\.0\.body\.0\.weight", "RCAN"),
    (r"conv_first\.weight", "a network of BasicSR"),
    (r"rbs\.0\.|residual_layer\.", "an EDSR of another program"),
    (r"(layer1\.0\.conv1|features\.0|classifier)\.", "an image classifier"),
    (r"(discriminator|net_?D)\.", "a discriminator"),
)
"""What a key begins with, and of which network."""

_PART = re.compile(r"(\d+)-of-0*([2-9]|[1-9]\d+)\b")

_FLOAT16 = (
    "; all its values are those of float16, which rounds variances below 3e-8 to 0 and values "
    "above 65504 to infinity: save the checkpoint in float32"
)


def of_other_modules(network: Network, keys: Collection[str]) -> set[str]:
    """Keys that belong to no module of the network, but to losses and the like beside it."""
    own = {name for name, _ in network.root.named_children()}
    others = {key for key in keys if _OTHER_MODULES.match(key)}
    beside = {key for key in others if key.partition(".")[0] not in own}
    return beside | {key for key in keys if key.rpartition(".")[2] in _COUNTERS}


def check_fit(path: Path, network: Network, state: Mapping[str, torch.Tensor]) -> None:
    """Refuse a state dict that is not complete, has too much, or holds impossible values.

    Raises:
        CheckpointError: as said; the message lists the differences and what they look like.
    """
    expected = network.root.state_dict()
    optional = {key for key in expected if key.endswith("num_batches_tracked")}
    missing = sorted(expected.keys() - state.keys() - optional)
    unexpected = sorted(state.keys() - expected.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"{path} is not a complete {network.architecture} with AdaDM"
            f"{_looks(path, network.architecture, state.keys(), missing)}\n"
            f"  missing ({len(missing)}): {some_names(missing)}\n"
            f"  unexpected ({len(unexpected)}): {some_names(unexpected)}"
        )
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape:
            raise CheckpointError(
                f"{path}: {key}: expected shape {tuple(expected[key].shape)}, "
                f"got {tuple(tensor.shape)}"
            )
        if expected[key].is_floating_point() and not tensor.is_floating_point():
            raise CheckpointError(
                f"{path}: {key}: expected floating-point numbers, got {tensor.dtype}"
            )
        values = tensor.float()  # the network's type, in which a tiny variance is 0
        if not torch.isfinite(values).all():
            hint = _FLOAT16 if _is_float16(state) else "; check that training converged"
            raise CheckpointError(f"{path}: {key} has NaN or infinite values{hint}")
        if key.endswith("running_var") and (lowest := values.min().item()) <= 0:
            hint = _FLOAT16 if lowest == 0 and _is_float16(state) else ""
            raise CheckpointError(
                f"{path}: {key}: expected running variances above 0, got {lowest:g}{hint}"
            )


def unknown(path: Path, expected: str, keys: Collection[str]) -> CheckpointError:
    """Error for tensors that are those of no known network."""
    looks = next((n for k, n in _OTHER_NETWORKS if any(re.match(k, key) for key in keys)), "")
    hint = f": it looks like {looks}, without AdaDM" if looks else _part(path)
    if not looks and any("phi." in key for key in keys):
        hint = f", but not all parts of such a network: were entries dropped?{hint}"
    return CheckpointError(
        f"{path}: expected tensors of {expected} with AdaDM, got the keys "
        f"{some_names(sorted(keys))}{hint}"
    )


def _looks(path: Path, architecture: str, keys: Collection[str], missing: Collection[str]) -> str:
    if part := _part(path):
        return part
    if any(re.search(r"_orig$|\.parametrizations\.|_[gv]$", key) for key in keys):
        return (
            ": its weights are parametrized, as by spectral normalization; call "
            "torch.nn.utils.remove_spectral_norm or parametrize.remove_parametrizations on each "
            "such module, and save it again"
        )
    if any("phi." in key for key in missing) and not any("phi." in key for key in keys):
        return f": it looks like {architecture} without AdaDM, which has no modulators (phi)"
    if missing and all("running_" in key for key in missing):
        return ": it holds the parameters alone, without the statistics of batch normalization"
    return ""


def _part(path: Path) -> str:
    match = _PART.search(path.name)
    return f": by its name it is part {int(match[1])} of {match[2]}; {JOIN}" if match else ""


def _is_float16(state: Mapping[str, torch.Tensor]) -> bool:
    """True if float16 holds every value exactly, so that the file passed through it."""
    return all(
        torch.equal(value.half().to(value.dtype).nan_to_num(), value.nan_to_num())
        for value in state.values()
        if value.is_floating_point()
    )
