"""The figure against what really changes, the modulation factors held fast."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from _support.double import run_double
from _support.graphs import CHANNELS, graph
from _support.networks import random_network
from _support.tails import random_tail, tail_graph
from adadm.export import collapse_tail, fold_batch_norm
from adadm.export.models import Network
from adadm.export.models.blocks import Modulator, linear_tail
from adadm.export.receptive_field import receptive_field
from adadm.export.tracing import trace

Array = npt.NDArray[Any]
Run = Callable[[Array], Array]

RRDB = "_support.foreign:RRDBLike"
SMALLER: dict[str, dict[str, float]] = {
    "edsr": {"blocks": 2, "features": 6},
    "rdn": {"blocks": 2, "layers": 2, "growth": 6, "features": 6},
}


def network_of(architecture: str, upscale: int, **more: float) -> Network:
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
        (RRDB, 4, 2),
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
CHUNK = "one = Constant <value_ints = [1]> () two = Constant <value_ints = [2]> () "


@pytest.mark.parametrize(
    ("body", "slack"),
    [
        ("y = Add (x, E)", 0),
        ("y = Conv (x, W1, B)", 0),
        (f"y = {PAD} (x, WD)".replace("pads", "group = 3, pads"), 0),
        (f"a = {PAD} (x, W3) b = LeakyRelu (a) y = {PAD} (b, V3)", 0),
        ("y = Conv <dilations = [2, 2], pads = [2, 2, 2, 2]> (x, W3)", 0),
        ("y = Conv <dilations = [3, 1], pads = [3, 1, 3, 1]> (x, W3)", 0),
        # to one side only
        ("y = Conv <pads = [2, 2, 0, 0]> (x, W3)", 0),
        ("y = Conv <pads = [0, 0, 2, 2]> (x, W3)", 0),
        # the longer of two ways
        (f"a = {PAD} (x, W3) b = {PAD} (a, V3) c = {PAD} (x, W3) y = Add (b, c)", 0),
        (f"a = {PAD} (x, W3) k = Concat <axis = -3> (x, a) y = Conv (k, WC)", 0),
        (f"{CHUNK} a = {PAD} (x, WS) b = DepthToSpace <blocksize = 2> (a) y = {PAD} (b, W3)", 0),
        # a stride of two and back: the second pixel of two looks one further
        (
            "a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, WS) "
            "y = DepthToSpace <blocksize = 2> (a)",
            0,
        ),
        (
            "a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, WS) k = Tanh (a) "
            "b = DepthToSpace <blocksize = 2> (k) "
            "c = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (b, WS) "
            "y = DepthToSpace <blocksize = 2> (c)",
            1,  # the two worst phases cannot meet
        ),
        # nothing but moves within blocks of 2x2, which cancel
        ("a = SpaceToDepth <blocksize = 2> (x) y = DepthToSpace <blocksize = 2> (a)", 1),
        # channels cut apart
        (
            f"a = {PAD} (x, W3) b, c = Split <axis = 1> (a, s) k = Concat <axis = 1> (c, b) "
            f"y = {PAD} (k, V3)".replace("s)", "parts)"),
            0,
        ),
    ],
)
def test_a_graph_of_any_kind(body: str, slack: int) -> None:
    parts = "parts = Constant <value_ints = [1, 2]> () " if "parts" in body else ""
    model = graph(parts + body)
    figure = receptive_field(model)
    assert figure is not None
    run = functools.partial(_sr, lambda feed: run_double(model, feed)[0])
    reach = reach_of(run, (1, CHANNELS, 22, 24), figure + 2)
    assert figure - slack <= reach <= figure


def _sr(run: Callable[[dict[str, Array]], Array], x: Array) -> Array:
    return run({"x": x, "r": np.zeros_like(x)})


ENDS = "start = Constant <value_ints = [-1]> () end = Constant <value_ints = [-99]> () "
FLIP = (
    f"{ENDS} axis = Constant <value_ints = [2]> () back = Constant <value_ints = [-1]> () "
    "y = Slice (x, start, end, axis, back)"
)
TURN = (
    "start = Constant <value_ints = [3]> () zero = Constant <value_ints = [0]> () "
    "end = Constant <value_ints = [999]> () axis = Constant <value_ints = [3]> () "
    "a = Slice (x, start, end, axis) b = Slice (x, zero, start, axis) y = Concat <axis = 3> (a, b)"
)


@pytest.mark.parametrize(
    "body",
    [
        FLIP,
        TURN,
        "y = Softmax (x)",
        "a = GlobalAveragePool (x) y = Mul (x, a)",
        "a = ReduceMean <keepdims = 1> (x) y = Add (x, a)",
        "y = ConvTranspose <pads = [1, 1, 1, 1]> (x, W3)",
        "y = others.Mystery (x)",
    ],
    ids=["flip", "turn", "softmax", "pooling", "mean", "transposed convolution", "another domain"],
)
def test_what_is_not_known_to_be_local_has_no_bound(body: str) -> None:
    known = f"a0 = {PAD} (x, W3) z = Relu (a0) "  # what is bounded before it changes nothing
    domain = "others" if "others" in body else ""
    model = graph(known + body.replace("others.", "").replace("(x", "(z"))
    if domain:
        list(model.graph)[-1].domain = domain
    assert receptive_field(model) is None


def test_a_collapsed_tail_has_no_bound_of_its_own() -> None:
    """Its strips move, so export takes the figure before."""
    model = tail_graph(random_tail(0, linear_tail(4, 6)), 6, np.float32)
    assert receptive_field(model) == 2
    assert collapse_tail(model).form
    assert receptive_field(model) is None
