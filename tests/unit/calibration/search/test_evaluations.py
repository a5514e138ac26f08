"""What is measured of planted errors, and what the store keeps."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from _support.odd_files import NOT_WRITABLE
from _support.planted import PHOTOGRAPHS, UPSCALE
from adadm.calibration.quality.gates import Run
from adadm.calibration.quality.ledger import Stage, measure
from adadm.calibration.quality.photographs import Photograph
from adadm.calibration.search.evaluations import Evaluations, Loss, LossMeter
from adadm.runtime.errors import CalibrationError, ImageError
from adadm.runtime.images.arrays import Batch, ImageArray

A, B = frozenset("a"), frozenset({"a", "b"})


def enlarging(levels: float = 0.0, noise: float = 0.0, white: float = 255.0, seed: int = 0) -> Run:
    """By repeating, with grey levels added, and Gaussian grey noise."""

    def run(lr: Batch) -> Batch:
        sr = lr.repeat(UPSCALE, axis=2).repeat(UPSCALE, axis=3)
        drawn = np.random.default_rng(seed).normal(0, noise, (1, 1, *sr.shape[2:]))
        return (sr + (levels + drawn) * (white / 255)).astype(np.float32)

    return run


def added(*runs: Run) -> Run:
    """The first, and what the others add to an enlargement."""

    def run(lr: Batch) -> Batch:
        return runs[0](lr) + sum(other(lr) - enlarging()(lr) for other in runs[1:])

    return run


def meter(
    reference: Run, photographs: Iterable[Photograph] = PHOTOGRAPHS, white: float = 255.0
) -> LossMeter:
    return LossMeter.of(reference, photographs, rgb_range=white, upscale=UPSCALE)


def test_a_systematic_error() -> None:
    """From 2 levels off to 3: more is lost than the noise accounts for."""
    loss = meter(enlarging(2)).loss_of(enlarging(3))
    assert loss.lost_db == pytest.approx(20 * math.log10(3 / 2))
    assert loss.noise_db == pytest.approx(10 * math.log10(1 + 1 / 4))
    assert loss.judged_db == loss.lost_db


def test_a_lucky_error() -> None:
    loss = meter(enlarging(3)).loss_of(enlarging(2))
    assert loss.lost_db == pytest.approx(-20 * math.log10(3 / 2))
    assert loss.judged_db == loss.noise_db == pytest.approx(10 * math.log10(1 + 1 / 9))


def test_uncorrelated_errors_cost_their_noise_and_add_up() -> None:
    reference = enlarging(noise=8, seed=1)
    measured = meter(reference)
    ours = [enlarging(noise=3, seed=2), enlarging(noise=2, seed=3)]
    one, two = (measured.loss_of(added(reference, run)) for run in ours)
    both = measured.loss_of(added(reference, *ours))
    assert one.noise_db == pytest.approx(10 * math.log10(1 + 9 / 64), rel=0.1)
    assert one.lost_db == pytest.approx(one.noise_db, rel=0.1)
    powers = [10 ** (loss.noise_db / 10) - 1 for loss in (one, two, both)]
    assert powers[0] + powers[1] == pytest.approx(powers[2], rel=0.1)


def test_what_8_bits_do_not_show_is_noise_but_not_lost() -> None:
    loss = meter(enlarging(2)).loss_of(enlarging(2.25))
    assert loss.lost_db == 0 and loss.noise_db > 0


def test_the_reference_loses_nothing() -> None:
    assert meter(enlarging(2)).loss_of(enlarging(2)) == Loss(0, 0)


def test_lost_is_that_of_the_ledger() -> None:
    reference, lowered = enlarging(noise=8), enlarging(noise=9, seed=1)
    stages = [
        Stage(name, lambda lr, run=run: (run(lr), []))  # type: ignore[misc]
        for name, run in (("float32", reference), ("lowered", lowered))
    ]
    ledger = measure(stages, PHOTOGRAPHS, rgb_range=255.0, upscale=UPSCALE)
    loss = meter(reference).loss_of(lowered)
    assert loss.lost_db == pytest.approx(ledger.stages[1].lost_db)


def test_the_networks_range_does_not_matter() -> None:
    small = meter(enlarging(2, white=1.0), white=1.0)
    large = meter(enlarging(2))
    found, expected = small.loss_of(enlarging(2.6, white=1.0)), large.loss_of(enlarging(2.6))
    assert found.lost_db == pytest.approx(expected.lost_db)
    assert found.noise_db == pytest.approx(expected.noise_db, rel=1e-4)


def test_beyond_white_and_at_the_border_nothing_is_noise() -> None:
    hr: ImageArray = np.full((32, 32, 3), 255, np.uint8)
    hr[::2] = 100

    def reference(lr: Batch) -> Batch:
        return np.float32(3) + hr.transpose(2, 0, 1)[None].astype(np.float32)

    def lowered(lr: Batch) -> Batch:
        sr = reference(lr)
        sr[..., 1::2, :] += 5
        sr[..., :UPSCALE, :] = 0
        return sr

    image = Photograph("white.png", "0", hr, hr[::2, ::2].copy())
    assert meter(reference, [image]).loss_of(lowered) == Loss(0, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_model_loses_all(value: float) -> None:
    loss = meter(enlarging(2)).loss_of(enlarging(value))
    assert loss == Loss(math.inf, math.inf)


def test_the_reference_runs_once() -> None:
    seen: list[int] = []

    def reference(lr: Batch) -> Batch:
        seen.append(lr.shape[2])
        return enlarging(2)(lr)

    measured = meter(reference, iter(PHOTOGRAPHS))
    assert measured.loss_of(enlarging(3)) == measured.loss_of(enlarging(3))
    assert seen == [17, 31]


def test_references_that_cannot_be_compared_with() -> None:
    with pytest.raises(CalibrationError, match=r"a\.png: the float32 output is not finite"):
        meter(enlarging(math.nan))
    for exact in (enlarging(), enlarging(0.1)):  # the second after rounding
        with pytest.raises(
            CalibrationError, match=r"a\.png: float32 reproduces the original exactly"
        ):
            meter(exact)
    with pytest.raises(CalibrationError, match="expected at least one photograph"):
        meter(enlarging(2), [])
    with pytest.raises(ImageError, match="expected shape"):
        meter(lambda lr: lr)


def never(names: frozenset[str]) -> Loss:
    raise AssertionError(f"{names} is measured again")


def test_remembers_in_memory_and_on_disk(tmp_path: Path) -> None:
    store = tmp_path / "made" / "store.json"
    losses = {A: Loss(-0.00123456789, 0.1), B: Loss(math.inf, math.inf)}
    asked: list[frozenset[str]] = []

    def noting(names: frozenset[str]) -> Loss:
        asked.append(names)
        return losses[names]

    evaluations = Evaluations(noting, store)
    for names in (["b", "a"], A, B):
        assert evaluations(names) == losses[frozenset(names)]
    assert len(asked) == len(set(asked)) == 2

    content = json.loads(store.read_text(), parse_constant=pytest.fail)["content"]
    assert content == [
        {"lost_db": None, "noise_db": None, "int8": ["a", "b"]},
        {"lost_db": -0.00123456789, "noise_db": 0.1, "int8": ["a"]},
    ]
    again = Evaluations(never, store)
    assert [again(names) for names in (A, B)] == [losses[A], losses[B]]
    other = tmp_path / "other" / store.name
    evaluations = Evaluations(losses.__getitem__, other)
    assert [evaluations(names) for names in (B, A)] == [losses[B], losses[A]]
    assert other.read_bytes() == store.read_bytes()


def test_what_was_measured_before_a_failure_is_kept(tmp_path: Path) -> None:
    def measure(names: frozenset[str]) -> Loss:
        if names == B:
            raise KeyboardInterrupt
        return Loss(0, 0.5)

    evaluations = Evaluations(measure, tmp_path / "store.json")
    evaluations(A)
    with pytest.raises(KeyboardInterrupt):
        evaluations(B)
    assert Evaluations(never, tmp_path / "store.json")(A) == Loss(0, 0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"[\n",
        b'{"a": 1}',
        b'[{"int8": ["a"], "lost_db": 0, "noise_db": 1}]',
        b'{"sha256": "0", "content": [{"int8": ["a"], "lost_db": 0, "noise_db": 1}]}',
    ],
)
def test_a_store_that_is_none_is_started_anew(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "store.json"
    store.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        evaluations = Evaluations(lambda _: Loss(0, 0.5), store)
    (message,) = caplog.messages
    assert f"WARNING: begun anew: {store}: " in message
    assert evaluations(A) == Loss(0, 0.5)
    assert Evaluations(never, store)(A) == Loss(0, 0.5)


@pytest.mark.parametrize("kind", NOT_WRITABLE)
def test_a_store_that_cannot_be_kept_is_given_up(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluations = Evaluations(lambda _: Loss(0, 0.5), NOT_WRITABLE[kind](tmp_path / "c") / "s.json")
    assert evaluations(A) == evaluations(B) == Loss(0, 0.5)
    (record,) = caplog.records
    assert "the cache is not kept, and the next run measures again: " in record.getMessage()
