"""Ranking, the table, and the plot."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from unittest.mock import Mock
from xml.etree import ElementTree

import pytest

from adadm.calibration.search.evaluations import Evaluations, Loss
from adadm.calibration.search.sensitivity import (
    Convolution,
    Sensitivity,
    draw_sensitivities,
    measure_sensitivity,
    print_sensitivities,
)
from adadm.runtime.errors import MissingDependencyError
from adadm.runtime.progress import Progress
from adadm.runtime.tables import Console

ALONE = {"head": 0.02, "body": 0.5, "tail": 0.1}
NETWORK = [Convolution("head", 10), Convolution("body", 80), Convolution("tail", 30)]


def measure(names: frozenset[str]) -> Loss:
    noise_db = math.fsum(ALONE[name] for name in names)
    return Loss(noise_db - 0.03, noise_db)


def many(count: int) -> list[Sensitivity]:
    results = [
        Sensitivity(
            Convolution(f"body.{index}.body.conv1", 36864 * (1 + index % 3)),
            Loss(-0.0012, 10 ** (-index / 40)),
            Loss(1.5, 1.4),
        )
        for index in range(count - 2)
    ]
    broken = Sensitivity(Convolution("broken", 100), Loss(math.inf, math.inf), Loss(0.1, 0.1))
    return [broken, *results, Sensitivity(Convolution("exact", 100), Loss(0, 0), Loss(1, 1))]


def test_the_most_sensitive_comes_first() -> None:
    results = measure_sensitivity(Evaluations(measure), NETWORK)
    assert [result.convolution.name for result in results] == ["body", "tail", "head"]
    assert [result.alone.noise_db for result in results] == [0.5, 0.1, 0.02]
    assert all(result.spared is None for result in results)


def test_spared_measures_all_others() -> None:
    progress = Mock(spec=Progress)
    results = measure_sensitivity(Evaluations(measure), NETWORK, spared=True, progress=progress)
    steps = [step.args for step in progress.advance.call_args_list]
    assert results[0].spared == measure(frozenset({"head", "tail"}))
    assert [step[:2] for step in steps] == [(done, 6) for done in range(1, 7)]
    assert steps[0][2] == "head alone: 0.0200 dB"
    assert steps[1][2] == "all but head: 0.6000 dB"


@pytest.mark.parametrize("spared", [True, False])
def test_the_table_fits_100_columns(spared: bool) -> None:
    long = "/body/body.0/body/body.1/residual_in_residual/dense/convolutions.3/Conv_quantized"
    convolutions = [Convolution(long, 30), *NETWORK]
    evaluations = Evaluations(lambda names: measure(names - {long}))
    results = measure_sensitivity(evaluations, convolutions, spared=spared)
    console = Console(width=100, record=True, file=io.StringIO())
    print_sensitivities(results, console, spared=("body",))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    (row,) = (line for line in text.splitlines() if "body " in line)
    others = ["0.1200", "+0.0900"] if spared else []
    assert row.split() == ["body", "53.3%", "0.5000", "+0.4700", *others, "spared"]


@pytest.mark.parametrize("count", [2, pytest.param(150, marks=pytest.mark.slow)])
def test_the_plot_is_the_same_again(tmp_path: Path, count: int) -> None:
    files = [tmp_path / name for name in ("a.svg", "b.svg")]
    for file in files:
        draw_sensitivities(many(count), file, spared=("broken",))
    first, second = (file.read_bytes() for file in files)
    assert first == second
    texts = [text.strip() for text in ElementTree.fromstring(first).itertext()]
    for sensitivity in many(count):
        assert sensitivity.convolution.name in texts
    assert {"inf", "0", "spared"} <= set(texts)


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"matplotlib .*\[quantize\]"):
        draw_sensitivities(many(3), tmp_path / "a.svg")
    assert not list(tmp_path.iterdir())
