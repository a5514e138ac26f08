"""Group and layer normalization in place of batch normalization: kept whole, and exact."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from _support.networks import make_non_neutral, random_network
from _support.parity import assert_parity, photograph_like, run_both
from _support.profiles import built
from _support.slow import slow_unless
from adadm.export import Options, export_onnx, load_checkpoint, save_checkpoint
from adadm.export.checkpoint import network_class
from adadm.runtime.engines.tensorrt_api import Profile
from adadm.runtime.errors import CheckpointError

SIZES: dict[str, dict[str, float]] = {
    "edsr": {"blocks": 2, "features": 12},
    "nlsn": {"blocks": 1, "features": 12, "n_hashes": 1},
    "rdn": {"blocks": 2, "layers": 2, "growth": 6, "features": 12},
}
NORMS = {"edsr": 4, "nlsn": 2, "rdn": 2}


@pytest.mark.parametrize(
    ("architecture", "groups", "opset"),
    slow_unless(
        lambda *form: form == ("rdn", 4, 17),
        [(name, groups, opset) for name in SIZES for groups, opset in ((1, 19), (4, 17))],
    ),
)
def test_published_networks(architecture: str, groups: int, opset: int, tmp_path: Path) -> None:
    network = random_network(architecture, 2, 0, norm_groups=groups, **SIZES[architecture])
    save_checkpoint(tmp_path / "trained.safetensors", network)
    checkpoint = load_checkpoint(tmp_path / "trained.safetensors")
    assert checkpoint.network.hyperparameters["norm_groups"] == groups
    export = export_onnx(checkpoint, Options(opset=opset))
    assert export.decisions == []
    assert export.nodes_after["GroupNorm"] == NORMS[architecture]
    lr = photograph_like((2, 30, 23), network.rgb_range)
    assert_parity(*run_both(network, export.model, lr), "float32")
    profile = {"lr": Profile((1, 3, 16, 16), (1, 3, 64, 64), (2, 3, 96, 96))}
    assert built(export.model, profile).plan


def test_the_groups_are_in_no_tensor(tmp_path: Path) -> None:
    network = random_network("edsr", 2, 0, norm_groups=3, **SIZES["edsr"])
    torch.save(network.state_dict(), tmp_path / "edsr.pt")
    with pytest.raises(CheckpointError, match=r"norm_groups of edsr .* give it by --norm-groups"):
        load_checkpoint(tmp_path / "edsr.pt")
    loaded = load_checkpoint(tmp_path / "edsr.pt", norm_groups=3)
    lr = torch.rand(1, 3, 9, 8) * 255
    with torch.inference_mode():
        assert torch.equal(loaded.network(lr), network(lr))


def test_layer_normalization_in_a_network_of_ones_own(tmp_path: Path) -> None:
    """nn.LayerNorm over the channels of each pixel; ONNX says that its statistics are float32."""
    name = "_support.custom_networks:LayerNormed"
    network = make_non_neutral(network_class(name)(rgb_range=255), seed=0)
    save_checkpoint(tmp_path / "trained.safetensors", network)
    export = export_onnx(load_checkpoint(tmp_path / "trained.safetensors", name))
    nodes = [n for n in export.model.graph.node if n.op_type == "LayerNormalization"]
    assert len(nodes) == 2
    for node in nodes:
        stash_type = [a.i for a in node.attribute if a.name == "stash_type"]
        assert stash_type in ([], [onnx.TensorProto.FLOAT])
    assert export.decisions == []
