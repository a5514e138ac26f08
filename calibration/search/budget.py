"""Find the convolutions with the most multiply-adds that can be INT8 within a limit in dB.

There are too many assignments to measure all. So each convolution is measured alone, and the
powers of the errors, 10^(dB/10) - 1, are added: exact for uncorrelated errors, in dB only nearly.
With this model the best assignment is a knapsack problem. Its solution is measured. If the model
was wrong, it is corrected, and the next best assignment is measured. Only measured assignments are
returned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adadm.calibration.search.evaluations import Evaluations, Loss
from adadm.calibration.search.sensitivity import Convolution, Sensitivity, measure_sensitivity
from adadm.runtime.errors import CalibrationError
from adadm.runtime.progress import SILENT, Progress

_STEPS = 1 << 16  # resolution of the knapsack: steps in the sum of all multiply-adds
_ROUNDS = 100  # corrections until they agree with each other, if they can
_TOLERANCE = 1 + 1e-9  # relative difference of sums taken in another order
_PHASE = "searching which convolutions can be INT8"

Names = frozenset[str]


@dataclass(frozen=True)
class Assignment:
    """The best assignment found.

    Attributes:
        int8: convolutions in network order; empty if none fits the budget.
        measured: measured loss; zero if nothing is in INT8.
        evaluations: number of losses that the search used, stored ones included.
        sensitivities: the most sensitive first; empty if all convolutions fit at once.
    """

    int8: tuple[str, ...]
    measured: Loss
    evaluations: int
    sensitivities: tuple[Sensitivity, ...]


def search(
    evaluations: Evaluations,
    convolutions: Sequence[Convolution],
    budget_db: float,
    *,
    most_evaluations: int = 8,
    progress: Progress = SILENT,
) -> Assignment:
    """Find the assignment with the most multiply-adds in INT8 whose loss is within the budget.

    An assignment is judged by its measured `Loss.judged_db`. First all convolutions together are
    measured, then each alone, then at most `most_evaluations` proposals, each with more
    multiply-adds than the best so far. The search ends early if the corrected model has nothing
    left to propose. After misses in a row it aims lower, the more of them the lower, and corrects
    the model in two ways in turn.

    Raises:
        CalibrationError: there is no convolution, two have one name, or the budget is negative.
    """
    state = _Search(convolutions, budget_db)

    def evaluate(names: Names, turn: int) -> None:
        loss = state.known[names] = evaluations(names)
        text = f"{len(names)} of {len(convolutions)} in INT8: {loss.judged_db:.4f} dB"
        progress.advance(turn, most_evaluations, text)

    sensitivities: list[Sensitivity] = []
    progress.phase(_PHASE)
    evaluate(state.everything, 0)
    if not state.fits(state.everything):
        sensitivities = measure_sensitivity(evaluations, convolutions, progress=progress)
        progress.phase(_PHASE)
        state.learn(sensitivities)
        misses = 0  # in a row
        for turn in range(1, most_evaluations + 1):
            model = state.fitted(bounds=misses % 2 == 1)
            proposal = state.propose(model, caution=(misses / most_evaluations) ** 2)
            if proposal is None:
                break
            evaluate(proposal, turn)
            misses = 0 if state.fits(proposal) else misses + 1

    best = state.best()
    return Assignment(
        int8=tuple(name for name in state.work if name in best),
        measured=state.known[best],
        evaluations=len(state.known) - 1,
        sensitivities=tuple(sensitivities),
    )


class _Search:
    """State of the search: measured losses, and the model that proposes the next measurement.

    Attributes:
        work: multiply-adds by name.
        known: losses by assignment, in order; zero for the empty one.
        alone: noise power of each convolution; those with infinite noise are never proposed.
    """

    def __init__(self, convolutions: Sequence[Convolution], budget_db: float) -> None:
        self.work = {convolution.name: convolution.multiply_adds for convolution in convolutions}
        if not convolutions or len(self.work) < len(convolutions):
            raise CalibrationError("expected at least one convolution, each with a unique name")
        if not budget_db >= 0:
            raise CalibrationError(f"expected a budget of 0 dB or more, got {budget_db} dB")
        self._budget_db = budget_db
        self.everything: Names = frozenset(self.work)
        self.known: dict[Names, Loss] = {frozenset(): Loss(0.0, 0.0)}
        self.alone: dict[str, float] = {}

    def fits(self, names: Names) -> bool:
        return self.known[names].judged_db <= self._budget_db

    def best(self) -> Names:
        """The fitting assignment with the most multiply-adds, then with the least loss."""
        return max(
            filter(self.fits, self.known),
            key=lambda names: (_sum(self.work, names), -self.known[names].judged_db),
        )

    def learn(self, sensitivities: Iterable[Sensitivity]) -> None:
        """Initialize the model with the noise of each convolution alone."""
        for sensitivity in sensitivities:
            name = sensitivity.convolution.name
            self.known[frozenset({name})] = sensitivity.alone
            if math.isfinite(sensitivity.alone.noise_db):
                self.alone[name] = _power(sensitivity.alone.noise_db)

    def fitted(self, *, bounds: bool) -> dict[str, float]:
        """Fit powers whose sums equal the measured power of each assignment, by iterative scaling.

        For one assignment after the other, the powers of its members are multiplied by the ratio
        of the measured power to their sum. This raises the powers of convolutions that do not go
        together. But if errors add up to less than their sum, all convolutions outside a bad
        assignment would seem cheap.

        Args:
            bounds: after the first round, treat an assignment that does not fit as a lower bound
                of the sum of its members; correct if errors add up to less.
        """
        costs = dict(self.alone)
        for turn in range(_ROUNDS):
            for names, loss in self.known.items():
                members = [name for name in names if name in costs]
                if len(names) == 1 or not members or math.isinf(loss.judged_db):
                    continue
                expected, measured = _sum(costs, members), _power(loss.judged_db)
                if bounds and turn and measured < expected and not self.fits(names):
                    continue
                for name in members:
                    share = costs[name] / expected if expected else 1 / len(members)
                    costs[name] = share * measured
        return costs

    def propose(self, model: Mapping[str, float], caution: float) -> Names | None:
        """Propose an unmeasured assignment with more multiply-adds than the best; None at the end.

        The optimum of the model comes first; then the best so far with one more convolution, whose
        own noise would fit into the rest of the budget.

        Args:
            caution: share of this rest to leave unused, 0..1.
        """
        best = self.best()
        used, budget = _power(self.known[best].judged_db), _power(self._budget_db)
        one_more = (
            best | {name}
            for name in sorted(self.alone, key=lambda name: -self.work[name])
            if name not in best and used + self.alone[name] <= budget
        )
        least = _sum(self.work, best)
        aim = budget - caution * (budget - used)
        for candidates in (_knapsack(model, self.work, aim), one_more):
            for names in candidates:
                if _sum(self.work, names) <= least:
                    break
                if names not in self.known:
                    return names
        return None


def _knapsack(costs: Mapping[str, float], work: Mapping[str, int], limit: float) -> Iterator[Names]:
    """Yield assignments whose costs add up to the limit or less, from the most work down.

    For each amount of work the cheapest, by dynamic programming: exact, except that work is counted
    in steps.
    """
    total = sum(work.values())
    steps = {name: max(1, round(work[name] * _STEPS / total)) for name in costs}
    cheapest = np.full(sum(steps.values()) + 1, np.inf)
    cheapest[0] = 0
    taken = {}
    for name, cost in costs.items():
        with_it = np.full_like(cheapest, np.inf)
        with_it[steps[name] :] = cheapest[: -steps[name]] + cost
        taken[name] = with_it < cheapest
        cheapest = np.minimum(cheapest, with_it)
    for left in np.flatnonzero(cheapest <= limit * _TOLERANCE)[::-1]:
        names = set()
        for name in reversed(taken):
            if taken[name][left]:
                names.add(name)
                left -= steps[name]
        yield frozenset(names)


def _sum(values: Mapping[str, float], names: Iterable[str]) -> float:
    """Sum of the values of names, independent of their order; names without a value are skipped."""
    return math.fsum(values[name] for name in names if name in values)


def _power(db: float) -> float:
    return math.expm1(max(db, 0.0) * math.log(10) / 10)
