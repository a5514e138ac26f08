"""The search against brute force, planted outliers, interactions, luck, and interruptions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adadm.calibration.search.budget import Assignment, search
from adadm.calibration.search.evaluations import Evaluations, Loss
from adadm.calibration.search.sensitivity import Convolution
from adadm.runtime.errors import CalibrationError
from adadm.runtime.progress import Progress

Names = frozenset[str]
Measure = Callable[[Names], Loss]


def power(db: float) -> float:
    return 10 ** (db / 10) - 1


def network(*work: int) -> list[Convolution]:
    return [Convolution(f"conv{index}", each) for index, each in enumerate(work)]


def uncorrelated(
    alone_db: Sequence[float], interaction: Callable[[Names], float] = lambda names: 0.0
) -> Measure:
    """Powers add up; an interaction adds more. What is lost is the same."""

    def measure(names: Names) -> Loss:
        powers = sorted(power(alone_db[int(name[4:])]) for name in names)
        db = 10 * math.log10(1 + sum(powers) + interaction(names))
        return Loss(db, db)

    return measure


def brute_force(measure: Measure, convolutions: Sequence[Convolution], budget_db: float) -> float:
    """The largest share of multiply-adds that fits."""
    return max(
        sum(convolution.multiply_adds for convolution in chosen)
        for count in range(len(convolutions) + 1)
        for chosen in itertools.combinations(convolutions, count)
        if not chosen or measure(frozenset(c.name for c in chosen)).judged_db <= budget_db
    ) / sum(convolution.multiply_adds for convolution in convolutions)


def share_of(assignment: Assignment, convolutions: Sequence[Convolution]) -> float:
    """Of the multiply-adds, in INT8."""
    work = {convolution.name: convolution.multiply_adds for convolution in convolutions}
    return sum(work[name] for name in assignment.int8) / sum(work.values())


def spared(assignment: Assignment, count: int) -> Names:
    """What a network of so many convolutions keeps out of INT8."""
    return frozenset(f"conv{index}" for index in range(count)) - {*assignment.int8}


def found(
    measure: Measure, convolutions: Sequence[Convolution], budget_db: float, most: int = 8
) -> Assignment:
    """Search, and check what holds whatever is measured."""
    asked: list[Names] = []

    def noting(names: Names) -> Loss:
        asked.append(names)
        return measure(names)

    progress = Mock(spec=Progress)
    assignment = search(
        Evaluations(noting),
        convolutions,
        budget_db,
        most_evaluations=most,
        progress=progress,
    )
    steps = [step.args[:2] for step in progress.advance.call_args_list]
    names = [convolution.name for convolution in convolutions]
    int8 = frozenset(assignment.int8)
    assert assignment.int8 == tuple(name for name in names if name in int8)
    assert assignment.measured == (measure(int8) if int8 else Loss(0, 0))
    assert assignment.measured.judged_db <= budget_db
    if len(names) > 1:
        assert assignment.evaluations == len(asked) == len(steps)
    alone = [(done, len(names)) for done in range(1, len(names) + 1)] if steps[1:] else []
    proposals = [(done, most) for done in range(1, len(steps) - len(alone))]
    assert steps == [(0, most), *alone, *proposals]
    assert len(asked) == len(set(asked)) <= 1 + len(names) + most
    return assignment


@given(
    st.lists(
        st.tuples(st.integers(1, 10**9), st.floats(1e-4, 3.0)),
        min_size=2,
        max_size=9,
    ),
    st.floats(0.0, 1.0),
)
def test_uncorrelated_errors_are_solved(instance: list[tuple[int, float]], share: float) -> None:
    convolutions = network(*(work for work, _ in instance))
    measure = uncorrelated([db for _, db in instance])
    budget_db = share * measure(frozenset(c.name for c in convolutions)).judged_db
    assignment = found(measure, convolutions, budget_db)
    best = brute_force(measure, convolutions, budget_db)
    assert share_of(assignment, convolutions) >= 0.95 * best


@given(st.randoms(use_true_random=False), st.floats(0.1, 0.9))
def test_anything_measured_keeps_within_the_budget(random: object, share: float) -> None:
    """Losses without any order: never over the budget, never less than the best convolution."""
    convolutions = network(5, 3, 8, 8, 1, 2)
    losses: dict[Names, Loss] = {}

    def measure(names: Names) -> Loss:
        if names not in losses:
            draw = random.uniform  # type: ignore[attr-defined]
            losses[names] = Loss(draw(-0.1, 1), draw(0, 1))
        return losses[names]

    assignment = found(measure, convolutions, share)
    singles = [
        c.multiply_adds
        for c in convolutions
        if assignment.sensitivities and measure(frozenset({c.name})).judged_db <= share
    ]
    assert share_of(assignment, convolutions) >= max(singles, default=0) / 27


def test_all_within_the_budget_is_one_evaluation() -> None:
    assignment = found(uncorrelated([0.1, 0.2]), network(1, 1), 1.0)
    assert assignment.int8 == ("conv0", "conv1")
    assert (assignment.evaluations, assignment.sensitivities) == (1, ())


@pytest.mark.parametrize("outlier_db", [1.0, 25.0, math.inf])
def test_spares_exactly_a_planted_outlier(outlier_db: float) -> None:
    alone = [0.01] * 40
    alone[17] = outlier_db

    def measure(names: Names) -> Loss:
        if math.isinf(outlier_db) and "conv17" in names:
            return Loss(math.inf, math.inf)
        return uncorrelated(alone)(names)

    assignment = found(measure, network(*[64 * 64 * 9] * 40), 0.45)
    assert spared(assignment, 40) == {"conv17"}
    assert assignment.evaluations == 1 + 40 + 1
    assert assignment.sensitivities[0].convolution.name == "conv17"


def test_at_half_the_loss_of_full_int8() -> None:
    """150 convolutions, some small, some cheap: no worse than the best by density."""
    work = [64 * 9 * (1 + index % 8) for index in range(150)]
    alone = [0.02 * 1.4 ** ((index * 37) % 11 - 5) for index in range(150)]
    measure = uncorrelated(alone)
    convolutions = network(*work)
    half = measure(frozenset(c.name for c in convolutions)).judged_db / 2
    assignment = found(measure, convolutions, half)

    names: Names = frozenset()
    for index in sorted(range(150), key=lambda index: power(alone[index]) / work[index]):
        if measure(names | {f"conv{index}"}).judged_db <= half:
            names |= {f"conv{index}"}
    greedy = sum(work[int(name[4:])] for name in names) / sum(work)
    assert share_of(assignment, convolutions) >= greedy > 0.5
    assert assignment.measured.judged_db > 0.99 * half


def test_two_that_do_not_go_together() -> None:
    """Harmless alone, and they have the most work: one of them is spared."""
    measure = uncorrelated([0.01] * 12, lambda names: 1.0 * ({"conv3", "conv7"} <= names))
    work = [10] * 12
    work[3] = work[7] = 11
    assignment = found(measure, network(*work), 0.2)
    assert spared(assignment, 12) in ({"conv3"}, {"conv7"})


@pytest.mark.parametrize(
    "law",
    [lambda p: p + 3 * p * p, math.sqrt, lambda p: p / (1 + p)],
    ids=["convex", "root", "cut"],
)
def test_errors_that_do_not_add_up(law: Callable[[float], float]) -> None:
    alone = [0.002 * 1.3 ** (index % 7) for index in range(10)]

    def measure(names: Names) -> Loss:
        db = 10 * math.log10(1 + law(sum(sorted(power(alone[int(name[4:])]) for name in names))))
        return Loss(db, db)

    convolutions = network(*(100 + 7 * (index % 4) for index in range(10)))
    half = measure(frozenset(c.name for c in convolutions)).judged_db / 2
    assignment = found(measure, convolutions, half)
    best = brute_force(measure, convolutions, half)
    assert share_of(assignment, convolutions) >= 0.75 * best


@pytest.mark.parametrize("count", [2, 3, 7, 30])
def test_equal_costs_fill_the_budget_exactly(count: int) -> None:
    measure = uncorrelated([0.01] * count)
    for fit in range(1, count):
        budget_db = measure(frozenset(f"conv{index}" for index in range(fit))).judged_db
        assert len(found(measure, network(*[9] * count), budget_db).int8) == fit


def test_one_convolution() -> None:
    measure = uncorrelated([0.3])
    assert found(measure, network(7), 0.3).int8 == ("conv0",)
    assert found(measure, network(7), 0.2).int8 == ()


def test_nothing_fits() -> None:
    assignment = found(uncorrelated([0.1, 0.2, 0.3]), network(1, 2, 3), 0.0)
    assert assignment.int8 == ()
    assert (assignment.measured, assignment.evaluations) == (Loss(0, 0), 4)
    assert len(assignment.sensitivities) == 3


def test_a_zero_budget_takes_what_is_exact() -> None:
    """Convolutions of noise 0, though the model has nothing to scale."""
    assignment = found(uncorrelated([0.0, 0.2, 0.0]), network(1, 5, 3), 0.0)
    assert assignment.int8 == ("conv0", "conv2")


def test_no_proposals() -> None:
    """The best convolution by itself is what is left."""
    assignment = found(uncorrelated([0.1, 0.2, 0.3]), network(1, 2, 3), 0.25, most=0)
    assert assignment.int8 == ("conv1",) and assignment.evaluations == 4


@pytest.mark.parametrize("stopped_after", [0, 1, 5, 13])
def test_an_interrupted_search_goes_on(tmp_path: Path, stopped_after: int) -> None:
    convolutions = network(*range(1, 13))
    measure = uncorrelated([0.05] * 12, lambda names: 0.3 * ({"conv11", "conv10"} <= names))

    class Stopped(Exception):
        pass

    asked: list[Names] = []

    def stopping(names: Names) -> Loss:
        if len(asked) == stopped_after:
            raise Stopped
        asked.append(names)
        return measure(names)

    def resumed(names: Names) -> Loss:
        asked.append(names)
        return measure(names)

    with pytest.raises(Stopped):
        search(Evaluations(stopping, tmp_path / "store.json"), convolutions, 0.3)
    again = search(Evaluations(resumed, tmp_path / "store.json"), convolutions, 0.3)
    assert len(asked) == len(set(asked)) == again.evaluations

    def never(names: Names) -> Loss:
        raise AssertionError(names)

    repeated = Evaluations(never, tmp_path / "store.json")
    assert search(repeated, convolutions, 0.3) == again
    whole = search(Evaluations(measure, tmp_path / "whole" / "store.json"), convolutions, 0.3)
    assert whole == again
    assert (tmp_path / "whole" / "store.json").read_bytes() == (
        tmp_path / "store.json"
    ).read_bytes()


@pytest.mark.parametrize(
    ("convolutions", "budget_db", "message"),
    [
        ([], 0.1, "each with a unique name"),
        ([Convolution("a", 1), Convolution("a", 2)], 0.1, "each with a unique name"),
        (network(1), -0.1, r"0 dB or more, got -0\.1 dB"),
        (network(1), math.nan, "nan dB"),
    ],
)
def test_refuses(convolutions: list[Convolution], budget_db: float, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        search(Evaluations(uncorrelated([1])), convolutions, budget_db)
