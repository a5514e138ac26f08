from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import safetensors.torch
import torch
from torch import nn

from _support.networks import PUBLISHED, random_network
from _support.parity import assert_parity
from _support.scripts import ROOT
from _support.slow import slow_unless
from adadm.export import Options, export_onnx, load_checkpoint, save_checkpoint
from adadm.export.checkpoint import network_class
from adadm.export.limits import FACTOR, deviations_of_training, limits_of
from adadm.export.networks import Network
from adadm.export.networks.blocks import ResidualBlock
from adadm.export.networks.network import named_modulators
from adadm.export.operators.modulator import modulators
from adadm.export.proof.cases import photograph_batches
from adadm.export.proof.drawn_pictures import drawn_pictures
from adadm.export.proof.pytorch import run_network
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.errors import CheckpointError
from adadm.runtime.images.arrays import batch_from_image, enlarge, image_from_batch, reduce
from adadm.runtime.images.metrics import resemblance
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession


def saved(folder: Path, network: Network) -> Path:
    save_checkpoint(folder / "network.safetensors", network)
    return folder / "network.safetensors"


@pytest.mark.parametrize("architecture", ["edsr", "rdn", "nlsn"])
def test_the_running_statistics_tell_the_deviation_of_training(architecture: str) -> None:
    """They are the plain average over the steps here, so the trunks of those steps tell it too."""
    network = random_network(architecture, 2)
    values: dict[str, list[torch.Tensor]] = {name: [] for name in named_modulators(network)}
    for name, modulator in named_modulators(network).items():
        modulator.register_forward_pre_hook(
            lambda _, inputs, name=name: values[name].append(inputs[0].detach())
        )
    torch.manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    network.train()
    with torch.no_grad():
        for _ in range(4):
            network(torch.rand(2, 3, 24, 24) * network.rgb_range)
    measured = {name: torch.cat(trunks).std().item() for name, trunks in values.items()}
    assert deviations_of_training(network.eval()) == pytest.approx(measured, rel=0.02)


def test_without_batch_normalization_photographs_tell_it() -> None:
    network = random_network("edsr", 2, blocks=2, features=12, norm_groups=3)
    told = deviations_of_training(network)
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    assert list(told) == ["body.0.phi", "body.1.phi"]
    assert len(blocks) == 2
    assert all(0 < std < math.inf for std in told.values())
    assert told["body.0.phi"] != told["body.1.phi"]


def test_a_limit_holds_what_would_run_away() -> None:
    """A network that was trained on photographs alone."""
    path = ROOT / "export" / "checkpoints" / "rdn_adadm_x2.safetensors"
    free, limited = (load_checkpoint(path, limit=limit).network for limit in ("off", "auto"))
    assert limits_of(free) == {}
    photograph = batch_from_image(reduce(photographs(("chelsea",))["chelsea"][:240, :240], 4), 255)
    np.testing.assert_array_equal(run_network(limited, photograph), run_network(free, photograph))
    board = drawn_pictures()["checker_8_inverted"]
    bicubic, away, held = (
        resemblance(image, board)
        for image in (
            enlarge(board, 2),
            *(
                image_from_batch(run_network(network, batch_from_image(board, 255)), 255)
                for network in (free, limited)
            ),
        )
    )
    assert away < bicubic - 10
    assert held > bicubic


MANY_BLOCKS: dict[str, tuple[str, dict[str, float]]] = {
    "edsr, narrow": ("edsr", {"blocks": 24, "features": 16}),
    "rdn, narrow": ("rdn", {"blocks": 16, "layers": 2, "growth": 16, "features": 16}),
    "nlsn, narrow": ("nlsn", {"blocks": 24, "features": 16, "n_hashes": 1}),
}
FAST = ("edsr, narrow", "rdn, narrow")


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        pytest.param(*network, id=name, marks=[pytest.mark.slow] * (name not in FAST))
        for name, network in {**MANY_BLOCKS, **PUBLISHED}.items()
    ],
)
def test_random_weights_do_not_run_away(
    architecture: str, size: dict[str, float], tmp_path: Path
) -> None:
    """A published state dict, with statistics that photographs left, on photographs and drawings.

    What the network has learned is not what bounds it.
    """
    torch.manual_seed(0)
    network = network_class(architecture)(upscale=2, **size)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    lr = list(photograph_batches(network, 24).values())
    lr += [
        batch_from_image(image, network.rgb_range)
        for name, image in drawn_pictures(24).items()
        if not name.endswith(("_inverted", "_dim"))
    ]
    with torch.no_grad():
        network.train()(torch.from_numpy(np.concatenate(lr[:4])))
    torch.save({"state_dict": network.root.state_dict()}, tmp_path / "network.pt")
    free, limited = (
        load_checkpoint(tmp_path / "network.pt", limit=limit).network for limit in ("off", "auto")
    )
    largest = {
        len(limits_of(each)): max(float(np.abs(run_network(each, batch)).max()) for batch in lr)
        for each in (free, limited)
    }
    assert largest[len(limits_of(limited))] < 2 * network.rgb_range
    if architecture != "edsr" and size not in [published for _, published in PUBLISHED.values()]:
        assert not largest[0] < 10 * network.rgb_range


@pytest.mark.parametrize("architecture", slow_unless(lambda name: name == "edsr", ["edsr", "rdn"]))
def test_exports_have_the_limits_of_their_network(architecture: str, tmp_path: Path) -> None:
    path = saved(tmp_path, random_network(architecture, 2))
    checkpoint = load_checkpoint(path, limit=0.3)
    model = export_onnx(checkpoint, Options(stats="external")).model
    limits = limits_of(checkpoint.network)
    nodes = list(modulators(ir.from_proto(model).graph))
    assert [node.op_type for node in nodes] == ["AdaDMModulateShiftedLimited"] * len(limits)
    assert [node.attributes["limit"].as_float() for node in nodes] == list(limits.values())
    noted = ModelMetadata.from_props({prop.key: prop.value for prop in model.metadata_props})
    assert noted.limits == pytest.approx(limits)
    lr = np.random.default_rng(0).uniform(0, 255, (1, 3, 19, 23)).astype(np.float32)
    unlimited = run_network(load_checkpoint(path).network, lr)
    expected = run_network(checkpoint.network, lr)
    assert np.abs(expected - unlimited).max() > 1
    assert_parity(
        OnnxRuntimeSession(model.SerializeToString()).run({"lr": lr})["sr"], expected, "float32"
    )


def test_a_checkpoint_carries_its_limits(tmp_path: Path) -> None:
    path = saved(tmp_path, random_network("edsr", 2))
    usual = limits_of(load_checkpoint(path, limit="auto").network)
    assert usual == limits_of(load_checkpoint(path, limit=FACTOR).network)
    again = saved(tmp_path, load_checkpoint(path, limit=3.0).network)
    carried = limits_of(load_checkpoint(again, limit="auto").network)
    assert carried == pytest.approx({name: 2 * limit for name, limit in usual.items()})
    assert limits_of(load_checkpoint(again, limit="off").network) == {}
    assert limits_of(load_checkpoint(again, limit=FACTOR).network) == usual


@pytest.mark.parametrize(
    "limits",
    [{"body.0.phi": 3.0}, {f"body.{n}.phi": -1.0 for n in range(3)}, {"elsewhere": 2.0}],
    ids=["some", "negative", "of another"],
)
def test_limits_that_do_not_fit_are_refused(limits: dict[str, Any], tmp_path: Path) -> None:
    network = random_network("edsr", 2)
    description = {"architecture": "edsr", "hyperparameters": network.hyperparameters}
    metadata = {"adadm": json.dumps({**description, "limits": limits})}
    path = tmp_path / "network.safetensors"
    path.write_bytes(safetensors.torch.save(network.state_dict(), metadata))
    with pytest.raises(CheckpointError, match="expected a limit greater than 0 for each"):
        load_checkpoint(path, limit="auto")
    assert limits_of(load_checkpoint(path, limit=2.0).network)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.inf, math.nan])
def test_factors_that_bound_nothing_are_refused(limit: float, tmp_path: Path) -> None:
    path = saved(tmp_path, random_network("edsr", 2))
    with pytest.raises(CheckpointError, match="expected a limit greater than 0, got"):
        load_checkpoint(path, limit=limit)
