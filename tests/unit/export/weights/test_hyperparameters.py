"""Hyper-parameters that training programs save beside the weights."""

from __future__ import annotations

import argparse
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from _support.networks import random_edsr
from adadm.export import load_checkpoint
from adadm.export.networks import ARCHITECTURES
from adadm.export.weights.hyperparameters import recorded_values

STATE = dict(random_edsr(2).state_dict())

# What lies beside the state dict, and the values that are found.
BESIDE: list[tuple[dict[str, Any], dict[str, float]]] = [
    ({"args": argparse.Namespace(res_scale=0.3, rgb_range=1)}, {"res_scale": 0.3, "rgb_range": 1}),
    ({"hyper_parameters": {"rgb_range": 255.0}}, {"rgb_range": 255}),
    ({"opt": types.SimpleNamespace(net={"res_scale": 1})}, {"res_scale": 1}),
    ({"rgb_range": 1.0}, {"rgb_range": 1}),
    ({"a": {"rgb_range": 1}, "b": {"rgb_range": 1.0}}, {"rgb_range": 1}),
    ({"a": {"rgb_range": 1}, "b": {"rgb_range": 255}}, {}),  # which?
    ({"args": {"rgb_range": "255", "res_scale": True}}, {}),
    ({"args": {"rgb_range": -1, "res_scale": float("nan")}}, {}),
    ({"args": {"rgb_range": 10**400, "res_scale": 1e300}}, {}),
    ({"args": argparse.Namespace(seed=5, lr=0.1, features=8)}, {}),
]


@pytest.mark.parametrize(("beside", "values"), BESIDE)
def test_values_beside_the_weights_are_no_guesses(
    beside: dict[str, Any], values: dict[str, float], tmp_path: Path
) -> None:
    torch.save({"state_dict": STATE, **beside}, tmp_path / "it.pt")
    checkpoint = load_checkpoint(tmp_path / "it.pt")
    assert {k: h.value for k, h in checkpoint.hyperparameters.items() if h.source == "file"} == (
        values
    )
    assert checkpoint.guesses.keys() == {"res_scale", "rgb_range"} - values.keys()
    assert load_checkpoint(tmp_path / "it.pt", rgb_range=2).network.rgb_range == 2


def test_a_number_of_another_kind_is_left_out() -> None:
    entries: dict[tuple[str, ...], dict[str, float]] = {
        (): {"chunk_size": 144.5, "n_hashes": 2.0, "rgb_range": 0.5}
    }
    assert recorded_values(entries, ARCHITECTURES.values()) == {"n_hashes": 2, "rgb_range": 0.5}
