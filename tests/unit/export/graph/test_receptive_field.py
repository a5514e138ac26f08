"""The figure against what really changes, the modulation factors held fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from _support.double_precision import run_double
from _support.graphs import CHANNELS, graph
from _support.networks import random_network
from _support.tails import random_tail, tail_graph
from adadm.export import collapse_tail, fold_batch_norm
from adadm.export.graph.receptive_field import receptive_field
from adadm.export.networks import Network
from adadm.export.networks.blocks import Modulator, linear_tail
from adadm.export.tracing import trace

Array = npt.NDArray[Any]
Run = Callable[[Array], Array]

RRDB = "_support.custom_networks:RRDBLike"
SMALLER: dict[str, dict[str, Any]] = {
    "edsr": {"blocks": 2, "features": 6},
    "rdn": {"blocks": 2, "layers": 2, "growth": 6, "features": 6},
}


def network_of(architecture: str, upscale: int, **more: Any) -> Network:
    return random_network(architecture, upscale, **SMALLER.get(architecture, {}), **more)


def figure_of(network: Network) -> int | None:
    """As export has it: of the folded graph; folding changes nothing."""
    model = trace(network)
    unfolded = receptive_field(model)
    fold_batch_norm(model)
    assert receptive_field(model) == unfolded
    return unfolded


def reach_of(run: Run, shape: tuple[int, ...], bound: int) -> int:
    """The least distance beyond which a change of all input changes no output pixel, at most.

    Of the output pixels that stand for the input pixel in the middle and for the one after it, so
    that both phases of a stride of two are seen. The input must hold twice the bound and more.
    """
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 255, shape)
    expected = run(base)
    r = expected.shape[2] // shape[2]
    worst, rounding = 0, 1e-14 * np.abs(expected).max()
    for middle in (min(shape[2:]) // 2 + offset for offset in range(2)):
        assert bound < middle < min(shape[2:]) - bound - 1  # else nothing lies beyond
        output = np.s_[..., r * middle : r * (middle + 1), r * middle : r * (middle + 1)]
        for px in range(bound, -1, -1):
            changed = rng.uniform(0, 255, shape)
            near = np.s_[..., middle - px : middle + px + 1, middle - px : middle + px + 1]
            changed[near] = base[near]
            if np.abs(run(changed)[output] - expected[output]).max() > rounding:
                worst = max(worst, px + 1)
                break
    return worst


@pytest.fixture
def constant_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors that no pixel changes."""
    monkeypatch.setattr(Modulator, "factor", lambda module, x: torch.tensor(1.5, dtype=x.dtype))


@pytest.mark.usefixtures("constant_factors")
@pytest.mark.parametrize(
    ("architecture", "upscale", "slack"),
    [
        ("edsr", 2, 0),
        ("edsr", 3, 0),
        ("edsr", 4, 0),
        ("rdn", 2, 0),
        # Each Resize counts as a pixel of its input, for what other modes of it would read.
        pytest.param(RRDB, 4, 2, marks=pytest.mark.slow),
    ],
)
def test_nothing_beyond_it_changes_a_pixel(architecture: str, upscale: int, slack: int) -> None:
    network = network_of(architecture, upscale)
    figure = figure_of(network)
    assert figure is not None

    network.double()
    side = 2 * figure + 7
    middle = side // 2
    output = np.s_[..., upscale * middle : upscale * (middle + 1), :]
    torch.manual_seed(0)
    lr = (torch.rand(1, 3, side, side + 2, dtype=torch.float64) * 255).requires_grad_()
    row = network(lr)[output]
    # What a pixel depends on however little: gradients are products, which no rounding loses.
    (gradient,) = torch.autograd.grad((row * torch.rand_like(row)).sum(), lr)
    rows = gradient.abs().amax(dim=(0, 1, 3)).nonzero()
    reach = int((rows - middle).abs().max())
    assert figure - slack <= reach <= figure

    # What changes it however much.
    changed = torch.rand_like(lr) * 255
    near = np.s_[..., middle - figure : middle + figure + 1, :]
    changed[near] = lr[near]
    assert not torch.equal(changed, lr)
    with torch.inference_mode():
        error = (network(changed)[output] - row).abs().max()
    assert error <= 1e-12 * row.abs().max()


def test_group_normalization_has_no_bound() -> None:
    """Nor has attention: tests/parity/test_tiles.py."""
    assert figure_of(network_of("edsr", 2, norm_groups=2)) is None


PAD = "Conv <pads = [1, 1, 1, 1]>"
DOWN = "Conv <strides = [2, 2], pads = [1, 1, 1, 1]>"
UP = "DepthToSpace <blocksize = 2>"
NUMBERS = "".join(
    f"{name} = Constant <value_ints = {values}> () "
    for name, values in {
        "n0": [0], "n1": [1], "n2": [2], "n3": [3], "far": [999], "back": [-1], "begin": [-999],
        "sizes": [1, 2],
    }.items()
)  # fmt: skip


@pytest.mark.parametrize(
    ("body", "slack"),
    [
        ("y = Add (x, E)", 0),
        ("y = Conv (x, W1, B)", 0),
        ("y = Conv <group = 3, pads = [1, 1, 1, 1]> (x, WD)", 0),
        (f"a = {PAD} (x, W3) b = LeakyRelu (a) y = {PAD} (b, V3)", 0),
        ("y = Conv <dilations = [2, 2], pads = [2, 2, 2, 2]> (x, W3)", 0),
        ("y = Conv <dilations = [3, 1], pads = [3, 1, 3, 1]> (x, W3)", 0),
        # to one side only
        ("y = Conv <pads = [2, 2, 0, 0]> (x, W3)", 0),
        ("y = Conv <pads = [0, 0, 2, 2]> (x, W3)", 0),
        ("y = Conv <dilations = [1, 2], pads = [1, 0, 1, 4]> (x, W3)", 0),
        # the longer of two ways
        (f"a = {PAD} (x, W3) b = {PAD} (a, V3) c = {PAD} (x, W3) y = Add (b, c)", 0),
        # channels: joined, cut, picked
        (f"a = {PAD} (x, W3) k = Concat <axis = -3> (x, a) y = Conv (k, WC)", 0),
        (f"b, c = Split <axis = 1> (x, sizes) k = Concat <axis = 1> (c, b) y = {PAD} (k, V3)", 0),
        (
            "b = Slice (x, n0, n1, n1) c = Slice (x, n1, n3, n1) k = Concat <axis = 1> (c, b) "
            f"y = {PAD} (k, V3)",
            0,
        ),
        # a stride of two and back: the second pixel of two looks one further
        (f"a = {DOWN} (x, WS) y = {UP} (a)", 0),
        (f"a = {DOWN} (x, WS) b = {UP} (a) c = {DOWN} (b, WS) y = {UP} (c)", 0),
        # at twice the size two convolutions look one pixel of the input further, one a half
        (f"a = {PAD} (x, WS) b = {UP} (a) y = {PAD} (b, W3)", 0),
        (f"a = {PAD} (x, WS) b = {UP} (a) c = {PAD} (b, W3) y = {PAD} (c, W3)", 0),
        (
            f"a = {PAD} (x, WS) b = {UP} (a) c = {PAD} (b, W3) d = {PAD} (c, W3) y = {PAD} (d, W3)",
            0,
        ),
        # moves within blocks, which cancel here
        (f"a = SpaceToDepth <blocksize = 2> (x) y = {UP} (a)", 1),
    ],
)
def test_a_graph_of_any_kind(body: str, slack: int) -> None:
    model = graph(NUMBERS + body)
    figure = receptive_field(model)
    assert figure is not None

    def run(x: Array) -> Array:
        return run_double(model, {"x": x, "r": np.zeros_like(x)})[0]

    reach = reach_of(run, (1, CHANNELS, 22, 24), figure + 2)
    assert figure - slack <= reach <= figure


@pytest.mark.parametrize(
    "body",
    [
        "y = Slice (z, back, begin, n2, back)",
        "a = Slice (z, n3, far, n3) b = Slice (z, n0, n3, n3) y = Concat <axis = 3> (a, b)",
        "y = Slice (z, n0, far)",  # of the batch, by default
        "y = Softmax (z)",
        "a = GlobalAveragePool (z) y = Mul (z, a)",
        "a = ReduceMean <keepdims = 1> (z) y = Add (z, a)",
        "y = ConvTranspose <pads = [1, 1, 1, 1]> (z, W3)",
    ],
)
def test_what_is_not_known_to_be_local_has_no_bound(body: str) -> None:
    bounded = f"a0 = {PAD} (x, W3) z = Relu (a0) "
    assert receptive_field(graph(f"{bounded} y = Identity (z)")) == 1
    assert receptive_field(graph(NUMBERS + bounded + body)) is None


def test_an_operator_of_others_has_no_bound() -> None:
    model = graph("y = Relu (x)")
    next(iter(model.graph)).domain = "others"
    assert receptive_field(model) is None


def test_a_collapsed_tail_has_no_bound_of_its_own() -> None:
    """Its strips move, so export takes the figure before."""
    model = tail_graph(random_tail(0, linear_tail(4, 6)), 6, np.float32)
    assert receptive_field(model) == 2
    assert collapse_tail(model).result
    assert receptive_field(model) is None
