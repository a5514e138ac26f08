"""What does not fit is said with what it looks like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from _support.networks import random_network
from adadm.export import load_checkpoint
from adadm.runtime.errors import CheckpointError

State = dict[str, Any]
EDSR, NLSN, RDN = (dict(random_network(n, 2).state_dict()) for n in ("edsr", "nlsn", "rdn"))
ROW = torch.ones(4, 4, 3, 3)


def without(*words: str) -> Callable[[State], State]:
    return lambda s: {k: v for k, v in s.items() if not any(word in k for word in words)}


def plain(state: State) -> State:
    """The keys of EDSR as published, without AdaDM."""
    names = {"conv1": "body.0", "conv2": "body.2"}
    kept = without("phi", "norm")(state)
    return {k.replace(w, n): v for w, n in names.items() for k, v in kept.items() if w in k} | {
        k: v for k, v in kept.items() if "conv" not in k
    }


def half(state: State) -> State:
    return {k: v.half() if v.is_floating_point() else v for k, v in state.items()}


def tiny(state: State) -> State:
    return {k: v * 1e-12 if k.endswith("1.norm1.running_var") else v for k, v in state.items()}


def huge(state: State) -> State:
    return {k: v * 1e9 if k == "head.0.weight" else v for k, v in state.items()}


PLAIN = "looks like {} without AdaDM, which has no modulators"
FLOAT16 = "those of float16, .*save the checkpoint in float32"
ROWS: list[tuple[str, State, str]] = [
    ("plain EDSR", plain(EDSR), PLAIN.format("edsr")),
    ("plain NLSN", without("phi", "norm")(NLSN), PLAIN.format("nlsn")),
    ("plain RDN", without("phi", "norm")(RDN), PLAIN.format("rdn")),
    ("parameters alone", without("running", "num_batches")(EDSR), "norm_groups"),
    ("a statistic", without("0.norm1.running_mean")(EDSR), "without the statistics of batch"),
    ("no tail", without("tail.1")(EDSR), "not all parts of such a network: were entries dropped"),
    ("no head", without("SFENet1")(RDN), "not all parts of such a network: were entries dropped"),
    ("a block", without("body.1.")(EDSR), r"missing \(14\): body\.1\.conv1\.bias"),
    ("BasicSR", {"conv_first.weight": ROW, "body.0.conv1.weight": ROW}, "a network of BasicSR"),
    ("ESRGAN", {"conv_first.weight": ROW, "body.0.rdb1.conv1.weight": ROW}, r"ESRGAN \(RRDBNet\)"),
    ("old ESRGAN", {"model.1.sub.0.RDB1.conv1.0.weight": ROW}, r"ESRGAN \(RRDBNet\)"),
    ("SwinIR", {"layers.0.residual_group.blocks.0.norm1.weight": ROW}, "like SwinIR"),
    ("RCAN", {"body.0.body.0.body.0.weight": ROW, "head.0.weight": ROW}, "like RCAN"),
    ("classifier", {"layer1.0.conv1.weight": ROW}, "like an image classifier"),
    ("float16", half(tiny(EDSR)), f"above 0, got 0; .*{FLOAT16}"),
    ("float16, widened", {k: v.float() for k, v in half(tiny(EDSR)).items()}, FLOAT16),
    ("float16, overflown", half(huge(EDSR)), f"NaN or infinite values; .*{FLOAT16}"),
]  # fmt: skip


@pytest.mark.parametrize(("state", "message"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS])
def test_a_misfit_is_named_for_what_it_looks_like(
    state: State, message: str, tmp_path: Path
) -> None:
    torch.save({"params": state}, tmp_path / "it.pth")
    with pytest.raises(CheckpointError, match=rf"(?s){message}"):
        load_checkpoint(tmp_path / "it.pth")


@pytest.mark.parametrize(
    ("state", "hint"),
    [
        ({k: v * (not k.endswith("1.norm1.running_var")) for k, v in EDSR.items()}, "got 0$"),
        ({k: v / 0 if k == "tail.1.weight" else v for k, v in EDSR.items()}, "training converged$"),
    ],
)
def test_float16_is_not_blamed_for_what_it_did_not_do(
    state: State, hint: str, tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "it.pth")
    with pytest.raises(CheckpointError, match=hint):
        load_checkpoint(tmp_path / "it.pth")


@pytest.mark.parametrize("name", ["model-00001-of-00003.safetensors", "part_2-of-2.pt"])
@pytest.mark.parametrize("kept", ["body.", "head.", "tail.1", "phi"])
def test_a_part_is_named_as_one(name: str, kept: str, tmp_path: Path) -> None:
    torch.save({k: v for k, v in EDSR.items() if kept in k}, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"by its name it is part \d of \d; join the parts"):
        load_checkpoint(tmp_path / name)
    torch.save(EDSR, tmp_path / name)
    assert load_checkpoint(tmp_path / name).network.upscale == 2
