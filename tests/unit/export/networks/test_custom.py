"""Networks that users bring, by the name of what builds them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from _support.networks import make_non_neutral, random_network
from adadm.export import load_checkpoint, save_checkpoint
from adadm.export.checkpoint import network_class
from adadm.export.networks.edsr import EDSR
from adadm.runtime.cli import main
from adadm.runtime.errors import CheckpointError

OURS = "_support.custom_networks"
RCAN = f"{OURS}:RCANLike"

MY_NETWORK = """
import torch
from torch import nn
from adadm.export import AdaDM


def build():
    branch = nn.Sequential(
        nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1)
    )
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), AdaDM(branch), nn.Conv2d(8, 27, 1), nn.PixelShuffle(3)
    )
"""


def test_a_module_of_the_working_folder_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_network.py").write_text(MY_NETWORK)
    namespace: dict[str, object] = {}
    exec(MY_NETWORK, namespace)
    module = namespace["build"]()  # type: ignore[operator]
    torch.save(module.state_dict(), tmp_path / "mine.pt")
    monkeypatch.chdir(tmp_path)
    assert main(["export", "mine.pt", "--arch", "my_network:build", "--rgb-range", "1"]) == 0
    printed = capsys.readouterr().out
    assert "my_network:build x3" in printed
    assert "normalization, folded into the convolutions after it: 1" in printed
    model = onnx.load(tmp_path / "mine.onnx")
    names = {node.name for node in model.graph.node}
    assert {"1.phi", "1.body.1"} <= names
    assert {e.key: e.value for e in model.metadata_props}["adadm.upscale"] == "3"


def test_keys_are_those_of_the_module_and_survive_a_round_trip(tmp_path: Path) -> None:
    network = random_network(RCAN, 2)
    save_checkpoint(tmp_path / "rcan.safetensors", network)
    loaded = load_checkpoint(tmp_path / "rcan.safetensors", RCAN)
    assert loaded.network.hyperparameters == {"rgb_range": 255}
    assert loaded.guesses == {}
    assert "groups.0.body.0.phi.weight" in loaded.network.root.state_dict()
    lr = torch.rand(1, 3, 14, 15) * 255
    with torch.inference_mode():
        assert torch.equal(network(lr), loaded.network(lr))


def test_the_smallest_input_and_the_factor_are_measured() -> None:
    network = network_class("_support.custom_networks:Windowed")(rgb_range=1)
    assert (network.upscale, network.smallest_side) == (2, 8)
    assert network_class("_support.custom_networks:RRDBLike")(rgb_range=1).upscale == 4


def test_a_subclass_of_network_is_taken_as_it_is() -> None:
    assert network_class("adadm.export.networks.edsr:EDSR") is EDSR


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.at_all:build", "cannot import nowhere.at_all: ModuleNotFoundError"),
        (f"{OURS}:missing", f"expected a function or class missing in {OURS}"),
        (f"{OURS}:needs_an_argument", "fails when called without arguments: TypeError"),
        ("adadm.export.networks.network:Network", "expected a complete Network"),
        (f"{OURS}:not_callable", "expected a function or class not_callable"),
        (f"{OURS}:returns_a_number", "returned a int, expected a torch.nn.Module"),
        (f"{OURS}:NoSuperResolution", r"integer r of 2 or more, got \(1, 3, 1, 1\)"),
        ("no_such_network", "expected architecture nlsn, edsr, rdn, .*, got no_such_network"),
    ],
)
def test_what_builds_no_network_is_refused(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        network_class(name)(rgb_range=255)


def test_what_must_be_given_and_what_runs_code_is_said(tmp_path: Path) -> None:
    network = make_non_neutral(network_class(RCAN)(rgb_range=255), seed=0)
    torch.save(network.root.state_dict(), tmp_path / "rcan.pt")
    with pytest.raises(CheckpointError, match=r"no published value; give it by --rgb-range"):
        load_checkpoint(tmp_path / "rcan.pt", RCAN)
    save_checkpoint(tmp_path / "rcan.safetensors", network)
    with pytest.raises(CheckpointError, match=rf"if you trust it, give --arch {RCAN}"):
        load_checkpoint(tmp_path / "rcan.safetensors")
    del (state := dict(network.root.state_dict()))["head.bias"]
    torch.save(state, tmp_path / "less.pt")
    with pytest.raises(CheckpointError, match=r"missing \(1\): head.bias"):
        load_checkpoint(tmp_path / "less.pt", RCAN, rgb_range=255)


def test_a_value_that_the_tensors_show_cannot_be_changed(tmp_path: Path) -> None:
    torch.save(random_network("nlsn", 2).state_dict(), tmp_path / "nlsn.pt")
    with pytest.raises(CheckpointError, match=r"rgb_range: expected 1, as the tensors .* got 255"):
        load_checkpoint(tmp_path / "nlsn.pt", rgb_range=255)
    assert load_checkpoint(tmp_path / "nlsn.pt", rgb_range=1).network.rgb_range == 1
    with pytest.raises(
        CheckpointError, match=r"chunk_size: expected an integer, 0 or more, got 7\.5"
    ):
        load_checkpoint(tmp_path / "nlsn.pt", chunk_size=7.5)
    with pytest.raises(
        CheckpointError, match=r"cannot build nlsn .*n_hashes of 1 to 64, got 144 and 0"
    ):
        load_checkpoint(tmp_path / "nlsn.pt", n_hashes=0)
