from __future__ import annotations

import io
import math

import numpy as np
import onnx_ir as ir
import pytest

from _support.exports import exported
from adadm.calibration.ranges.float16_ranges import (
    LARGEST_SAFE,
    half_ranges,
    print_half_ranges,
    trunk_exponent,
    wide_values,
)
from adadm.calibration.ranges.tensor_statistics import FACTOR, TensorStatistics
from adadm.export import Options
from adadm.export.operators.modulator import modulators
from adadm.runtime.tables import Console

BLOCKS = 3


def model() -> ir.Model:
    _, proto, _ = exported("edsr", 2, Options())
    graph: ir.Model = ir.from_proto(proto)
    return graph


def known(graph: ir.Graph, **peaks: float) -> dict[str, TensorStatistics]:
    """Of each value and factor: a peak of 1, but for those that are given."""
    names = [str(value.name) for node in graph for value in node.outputs]
    names += [f"{FACTOR}{index}" for index in range(BLOCKS)]
    assert peaks.keys() <= set(names)
    return {
        name: TensorStatistics(
            np.array([0.0, peaks.get(name, 1.0)]), np.zeros(2), np.array([0.25, 0.25])
        )
        for name in names
    }


def trunk(graph: ir.Graph, index: int) -> tuple[str, str]:
    """What a modulator reads, and what it returns."""
    node = list(modulators(graph))[index]
    assert node.inputs[0] is not None
    return str(node.inputs[0].name), str(node.outputs[0].name)


def test_what_is_safe_could_be_four_times_larger() -> None:
    assert LARGEST_SAFE * 4 == np.finfo(np.float16).max == 65504


@pytest.mark.parametrize(
    ("peak", "exponent"),
    [
        (0.0, 0),
        (255.0, 0),
        (LARGEST_SAFE, 0),
        (np.nextafter(LARGEST_SAFE, np.inf), -4),  # 16376 * 2**-4 is below 1024
        (16384.0, -4),
        (16385.0, -5),
        (65504.0, -6),
        (1e6, -10),
        (1e30, -90),
    ],
)
def test_a_trunk_is_scaled_to_be_below_1024(peak: float, exponent: int) -> None:
    graph = model().graph
    for name in (*trunk(graph, 0), *trunk(graph, BLOCKS - 1)):
        assert trunk_exponent(graph, known(graph, **{name: peak})) == exponent
    assert not exponent or 512 < peak * 2.0**exponent <= 1024


def test_what_lies_beside_the_trunk_does_not_scale_it() -> None:
    graph = model().graph
    on_trunk = {name for index in range(BLOCKS) for name in trunk(graph, index)}
    beside = {str(v.name): 1e6 for node in graph for v in node.outputs} | {"factor_1": 1e6}
    peaks = {name: peak for name, peak in beside.items() if name not in on_trunk}
    assert trunk_exponent(graph, known(graph, **peaks)) == 0


def test_a_graph_without_modulators_has_no_trunk() -> None:
    graph = ir.Graph([], [], nodes=[], name="empty", opset_imports={"": 19})
    assert trunk_exponent(graph, {}) == 0


def test_wide_is_what_is_above_and_what_is_unknown() -> None:
    graph = model().graph
    conv, relu = "body.0.conv1", "body.1.relu"
    assert wide_values(graph, known(graph)) == set()
    assert wide_values(graph, known(graph, **{conv: LARGEST_SAFE})) == set()
    peaks = {conv: LARGEST_SAFE * 1.001, relu: math.nan}
    assert wide_values(graph, known(graph, **peaks)) == {conv, relu}


def test_a_large_factor_widens_what_its_modulator_returns() -> None:
    """The factor is no value of the graph: it is inside the modulator."""
    graph = model().graph
    for index in range(BLOCKS):
        _, returned = trunk(graph, index)
        assert wide_values(graph, known(graph, **{f"factor_{index}": 1e5})) == {returned}


def test_inputs_are_never_wide() -> None:
    """They have the type that the user feeds."""
    graph = model().graph
    statistics = known(graph)
    statistics["lr"] = TensorStatistics(np.full(3, 1e6), np.zeros(3), np.ones(3))
    assert wide_values(graph, statistics) == set()


def test_ranges_are_distances() -> None:
    graph = model().graph
    peaks = {"body.0.conv1": 32752.0, "body.1.relu": 131008.0, "body.0.relu": 0.0}
    found = half_ranges(graph, known(graph, **peaks))
    assert [entry.name for entry in found[:2]] == ["body.1.relu", "body.0.conv1"]
    assert [entry.below_overflow for entry in found[:2]] == [0.5, 2.0]
    assert [entry.wide for entry in found[:3]] == [True, True, False]
    assert found[0].above_underflow == 0.5 * 2**14
    last = max(found, key=lambda entry: entry.below_overflow)
    assert last.name == "body.0.relu" and last.below_overflow == math.inf
    assert [e.name for e in found] == [e.name for e in half_ranges(graph, known(graph, **peaks))]


def test_the_nearest_to_both_ends_are_printed() -> None:
    graph = model().graph
    statistics = known(graph, **{"body.1.relu": 131008.0})
    statistics["body.2.conv1"] = TensorStatistics(np.ones(2), np.zeros(2), np.full(2, 1e-12))
    out = io.StringIO()
    print_half_ranges(half_ranges(graph, statistics), Console(file=out, width=100))
    lines = out.getvalue().splitlines()
    (nearest,) = (line for line in lines if "body.1.relu" in line)
    assert "1.31e+05" in nearest and "0.5 times" in nearest and "stays float32" in nearest
    (lowest,) = (line for line in lines if "body.2.conv1" in line)
    assert "0.0164 times" in lowest and "stays" not in lowest
    assert sum(" times " in line for line in lines) <= 10
