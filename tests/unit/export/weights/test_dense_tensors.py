"""A file may hold tensors of any kind; weights are dense, real, and all in the file."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from _support.networks import random_network
from adadm.export import load_checkpoint
from adadm.runtime.errors import CheckpointError

State = dict[str, Any]
Make = Callable[[torch.Tensor], torch.Tensor]


@functools.cache
def trained(architecture: str) -> State:
    return dict(random_network(architecture, 2).state_dict())


def nested(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are a prototype
        return torch.nested.nested_tensor([tensor, tensor])


def quantized(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it goes away
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


OTHERS: dict[str, tuple[Make, str]] = {
    "complex": (lambda t: t + 1j, r"torch\.complex64"),
    "sparse": (lambda t: t.to_sparse(), r"layout torch\.sparse_coo"),
    "quantized": (quantized, r"torch\.qint8"),
    "nested": (nested, "a nested one"),
    "without values": (lambda t: t.to("meta"), "without values"),
    "one value repeated": (lambda t: t.flatten()[:1].clone().expand(t.shape), "repeats its values"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), "float8"),
    "integers": (lambda t: t.long() + 1, r"(floating-point numbers, got torch\.int64|-rgb_range)"),
}


@pytest.mark.parametrize(("make", "message"), OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize(
    ("architecture", "key"),
    [
        ("edsr", "body.0.conv1.weight"),
        ("edsr", "body.0.norm1.running_var"),
        ("rdn", "RDBs.0.convs.0.conv.0.weight"),
        ("nlsn", "sub_mean.bias"),
    ],
)
def test_other_tensors_are_refused(
    architecture: str, key: str, make: Make, message: str, tmp_path: Path
) -> None:
    state = trained(architecture)
    torch.save({**state, key: make(state[key])}, tmp_path / "it.pt")
    with pytest.raises(CheckpointError, match=f"{key}.*: expected .*{message}"):
        load_checkpoint(tmp_path / "it.pt")


@pytest.mark.parametrize("name", ["complex", "sparse", "nested", "without values"])
def test_weight_normalization_is_not_folded_from_other_tensors(name: str, tmp_path: Path) -> None:
    state = trained("edsr").copy()
    key = "body.0.conv1.weight"
    v = state.pop(key)
    pair = {
        f"{key}_g": v.flatten(1).norm(dim=1)[:, None, None, None],
        f"{key}_v": OTHERS[name][0](v),
    }
    torch.save({**state, **pair}, tmp_path / "it.pt")
    with pytest.raises(CheckpointError, match="weight_v: expected a dense tensor"):
        load_checkpoint(tmp_path / "it.pt")


def test_counts_of_batches_may_be_of_any_kind_of_number(tmp_path: Path) -> None:
    state = trained("edsr")
    counts = {k: v.float() for k, v in state.items() if k.endswith("num_batches_tracked")}
    torch.save({**state, **counts}, tmp_path / "it.pt")
    assert counts and load_checkpoint(tmp_path / "it.pt").network.upscale == 2


def test_a_variance_that_the_networks_type_rounds_to_zero_is_refused(tmp_path: Path) -> None:
    state, key = trained("edsr"), "body.1.norm2.running_var"
    torch.save({**state, key: state[key].double() * 1e-60}, tmp_path / "it.pt")
    with pytest.raises(CheckpointError, match=r"variances above 0, got 0$"):
        load_checkpoint(tmp_path / "it.pt")


def test_a_small_file_builds_no_large_network(tmp_path: Path) -> None:
    """A head of 30000 channels: each block between would take 32 GB."""
    state = trained("edsr")
    heads = {"head.0.weight": torch.ones(30_000, 3, 3, 3), "tail.1.weight": state["tail.1.weight"]}
    torch.save({**state, **heads}, tmp_path / "it.pt")
    with pytest.raises(CheckpointError, match=r"expected shape \(30000"):
        load_checkpoint(tmp_path / "it.pt")


def test_a_small_file_does_not_use_one_tensor_for_a_large_network(tmp_path: Path) -> None:
    shared = torch.ones(64, 64, 3, 3)
    state = {f"body.{index}.conv1.weight": shared for index in range(200)}
    torch.save({**trained("edsr"), **state}, tmp_path / "it.pt")
    with pytest.raises(CheckpointError, match=r"expected tensors of its \d+ bytes, got \d+"):
        load_checkpoint(tmp_path / "it.pt")


@pytest.mark.parametrize(
    ("architecture", "key", "name"),
    [
        ("edsr", "body.{}.norm1.running_mean", "blocks"),
        ("nlsn", "body.{}.conv2.bias", "blocks"),
        ("rdn", "RDBs.{}.phi.bias", "blocks"),
        ("rdn", "RDBs.0.convs.{}.bias", "layers"),
    ],
)
def test_no_more_blocks_are_built_than_a_network_has(
    architecture: str, key: str, name: str, tmp_path: Path
) -> None:
    more = {key.format(index): torch.ones(1) for index in range(3, 1500)}
    torch.save({**trained(architecture), **more}, tmp_path / "it.pt")
    with pytest.raises(CheckpointError, match=rf"{name}: expected at most 1000, got 1\d\d\d"):
        load_checkpoint(tmp_path / "it.pt")


@pytest.mark.parametrize("number", ["1000000000", "30000", "9" * 5000])
def test_the_number_of_a_block_is_not_believed(number: str, tmp_path: Path) -> None:
    torch.save({**trained("edsr"), f"body.{number}.w": torch.ones(1)}, tmp_path / "it.pt")
    with pytest.raises(CheckpointError, match=rf"unexpected \(\d\): .*body\.{number[:200]}"):
        load_checkpoint(tmp_path / "it.pt")
