"""The parts of scripts/studies/performance/study.py, on networks that take milliseconds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from adadm.export import load_checkpoint
from adadm.runtime.tables import Console
from studies.performance import draw, measure, networks, report
from studies.performance.networks import CASES, Case
from studies.performance.peers import Files, Worker

ROOT = Path(__file__).resolve().parents[3]
SMALL = Case("small", "edsr", 4, (20, 28), {"blocks": 2, "features": 8})
ONNX_PEERS = ("naive_onnxruntime", "naive_openvino", "ours_onnxruntime", "ours_openvino")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return networks.prepare(SMALL, tmp_path_factory.mktemp("small"))


@pytest.mark.slow
def test_peers_compute_the_same_and_take_turns(files: Files) -> None:
    lr = np.random.default_rng(0).uniform(0, 255, (1, 3, *SMALL.size)).astype(np.float32)
    peers = ("eager", *ONNX_PEERS)
    results = measure.run_peers(peers, files, lr, rounds=3, console=Console(quiet=True))
    assert tuple(results) == peers
    for result in results.values():
        assert len(result["ms"]) == 3 and min(result["ms"]) > 0
        assert 2**25 < result["peak_bytes"] < 2**32
        assert result["difference"] < 3e-5
    assert results["eager"]["difference"] == 0 < results["ours_onnxruntime"]["difference"]


@pytest.mark.slow
def test_a_peer_that_fails_is_a_result(files: Files, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    lr = np.zeros((1, 3, *SMALL.size), np.float32)
    given = Files(files.checkpoint, broken, files.ours)
    peers = ("naive_onnxruntime", "ours_onnxruntime")
    results = measure.run_peers(peers, given, lr, rounds=1, console=Console(quiet=True))
    assert "is not a complete ONNX model" in results["naive_onnxruntime"]["failure"]
    assert results["ours_onnxruntime"]["ms"]


def test_a_peer_that_dies_is_a_result(files: Files, tmp_path: Path) -> None:
    lr = np.zeros((1, 3, *SMALL.size), np.float32)
    worker = Worker("ours_onnxruntime", files, lr, tmp_path / "reference.npy")
    assert worker.failure is None and worker.time_ms()
    worker._process.kill()
    assert worker.time_ms() is None
    assert worker.failure == "its process ended with exit code -9"
    assert worker.stop() is None


@pytest.mark.slow
def test_an_export_that_fails_is_a_result(tmp_path: Path) -> None:
    """Of NLSN, whose stable sort torch.onnx does not know."""
    size: dict[str, float] = {"blocks": 1, "features": 8, "n_hashes": 1}
    nlsn = Case("small", "nlsn", 2, (12, 13), size)
    prepared = networks.prepare(nlsn, tmp_path)
    lr = np.random.default_rng(0).uniform(0, 1, (1, 3, *nlsn.size)).astype(np.float32)
    peers = ("ours_onnxruntime", "naive_openvino")
    results = measure.run_peers(peers, prepared, lr, rounds=1, console=Console(quiet=True))
    assert results["ours_onnxruntime"]["ms"]
    assert "aten.sort" in results["naive_openvino"]["failure"]


def test_cost_is_that_of_pytorch_modules(files: Files) -> None:
    """Counted by hooks on the network, for the naive export."""
    network = load_checkpoint(files.checkpoint).network
    counted = []

    def count(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        assert isinstance(module, torch.nn.Conv2d)
        counted.append(output[:, 0].numel() * module.weight.numel())

    for module in network.modules():
        if type(module) is torch.nn.Conv2d:
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.rand(1, 3, *SMALL.size))
    found = measure.cost(files.naive, SMALL.size)["multiply_adds"]
    phi = 2  # the published code's 1x1 convolution on one number, one a block
    assert found == sum(counted) + phi


def test_cost_counts_what_every_node_reads_and_writes(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["lr", "w"], ["c"], pads=[1] * 4),
            helper.make_node("Relu", ["c"], ["sr"]),
        ],
        "g",
        [value("lr", 1, ["N", 3, "H", "W"])],
        [value("sr", 1, ["N", 4, "H", "W"])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    found = measure.cost(tmp_path / "m.onnx", (5, 7))
    assert found["multiply_adds"] == 4 * 3 * 9 * 35
    assert found["bytes"] == 4 * (3 * 35 + 4 * 3 * 9 + 4 * 35 + 2 * 4 * 35)


def figures(svg: str) -> list[str]:
    """The text of a plot: glyph positions may differ between versions of the fonts."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_page_and_plots_are_those_of_the_measured_figures(tmp_path: Path) -> None:
    results = json.loads((ROOT / "docs" / "results" / "performance.json").read_text())
    page = (ROOT / "docs" / "results" / "performance.md").read_text()
    assert report.page(results, CASES) == page
    draw.draw(results, CASES, tmp_path)
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == ["performance_nodes.svg", "performance_peers.svg", "performance_sizes.svg"]
    for name in drawn:
        assert f"images/{name}" in page
        committed = (ROOT / "docs" / "images" / name).read_text()
        assert figures((tmp_path / name).read_text()) == figures(committed)
