"""Random checkpoints in the published layouts: ONNX against PyTorch, folded and not."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
import pytest
import torch

from _support.double_precision import promote_scalars, relative_error, run_double
from _support.exports import exported
from _support.networks import CUSTOM, PUBLISHED, SMALL, random_network
from _support.parity import TOLERANCES, assert_parity, photograph_like, run_both
from _support.profiles import DYNAMIC, built
from _support.slow import slow_unless
from adadm.export import Options, export_onnx, fold_batch_norm, load_checkpoint
from adadm.export.limits import Limit, limits_of
from adadm.export.networks import Network
from adadm.export.networks.sparse_attention import SparseAttention
from adadm.export.tracing import trace

SIZES = [(1, 64, 48), (2, 17, 23), (1, 8, 64), (1, 1, 1), (3, 1, 5)]

NETWORKS = [(name, upscale) for name in SMALL for upscale in (2, 3, 4)] + list(CUSTOM.items())
EACH_ONCE = [("edsr", 3), ("rdn", 4), ("nlsn", 2), list(CUSTOM.items())[-1]]

every_network = pytest.mark.parametrize(
    ("architecture", "upscale"), slow_unless(lambda *network: network in EACH_ONCE[:3], NETWORKS)
)


@every_network
def test_folded_agrees_with_pytorch_in_float32(architecture: str, upscale: int) -> None:
    network, model, decisions = exported(architecture, upscale, Options())
    assert "shifted trunk" in {decision.result for decision in decisions}
    side = network.smallest_side
    sizes = [size for size in SIZES if size[1] * size[2] >= network.smallest_area]
    for batch, height, width in (*sizes, (1, side, side)):
        lr = photograph_like((batch, height, width), network.rgb_range)
        found, expected = run_both(network, model, lr)
        assert found.shape == (batch, 3, upscale * height, upscale * width)
        assert_parity(found, expected, "float32")


def assert_folded_exactly(network: Network, sizes: list[tuple[int, int]]) -> None:
    """In float64: folded against unfolded, and against PyTorch.

    What is kept comes from sparse attention, which cannot take a shift.
    """
    network = network.double()
    unfolded = trace(network)
    promote_scalars(unfolded)
    folded: ir.Model = ir.from_proto(ir.to_proto(unfolded))
    decisions = fold_batch_norm(folded)
    kept = [decision for decision in decisions if decision.result is None]
    assert len(kept) == sum(isinstance(m, SparseAttention) for m in network.modules())
    for height, width in sizes:
        lr = np.random.default_rng(height).uniform(0, network.rgb_range, (2, 3, height, width))
        before, after = (run_double(model, {"lr": lr})[0] for model in (unfolded, folded))
        assert relative_error(after, before) <= TOLERANCES["float64"]
        with torch.inference_mode():
            pytorch = network(torch.from_numpy(lr)).numpy()
        assert relative_error(after, pytorch) <= TOLERANCES["float64"]


@pytest.mark.parametrize(
    ("architecture", "upscale"),
    slow_unless(lambda *network: network in EACH_ONCE[:2], NETWORKS),
)
def test_folded_agrees_with_unfolded_and_pytorch_in_float64(
    architecture: str, upscale: int
) -> None:
    network = random_network(architecture, upscale)
    sizes = [(24, 21), (12, 13), (5, 7), (1, 2)]
    assert_folded_exactly(network, [s for s in sizes if s[0] * s[1] >= network.smallest_area])


@pytest.mark.parametrize(
    ("architecture", "upscale", "modulator", "limit"),
    slow_unless(
        lambda *form: form == (*EACH_ONCE[1], "inline", 1.5),
        [
            (*network, modulator, limit)
            for network in NETWORKS
            for modulator in ("function", "inline")
            for limit in ("off", 1.5)
        ],
    ),
)
def test_tensorrt_builds(
    architecture: str, upscale: int, modulator: Literal["function", "inline"], limit: Limit
) -> None:
    options = Options(modulator=modulator, factors=True)
    network, model, _ = exported(architecture, upscale, options, limit=limit)
    assert bool(limits_of(network)) == (limit != "off")
    assert built(model, DYNAMIC).plan


@pytest.mark.slow
@pytest.mark.parametrize(("name", "upscale"), [("rdn A", 2), ("rdn A", 4), ("rdn B", 2)])
def test_published_sizes(name: str, upscale: int, tmp_path: Path) -> None:
    architecture, size = PUBLISHED[name]
    network = random_network(architecture, upscale, 0, **size)
    path = tmp_path / "published.pt"
    torch.save(network.state_dict(), path)
    checkpoint = load_checkpoint(path)
    assert checkpoint.network.architecture == architecture
    assert size.items() <= checkpoint.network.hyperparameters.items()

    export = export_onnx(checkpoint)
    assert all(decision.result for decision in export.decisions)
    peak = max(case.peak for case in export.parity)
    assert max(case.largest_error for case in export.parity) <= TOLERANCES["float32"] * peak
    assert_folded_exactly(network, [(9, 8)])
