"""Which convolutions may be INT8 under a budget: the most multiply-adds that a loss in dB allows.

All assignments are too many to measure. So each convolution is measured alone, and the powers of
their errors, 10^(dB/10) - 1, are added: of errors that are uncorrelated this is exact, in dB only
nearly. Under such a model the best assignment is a knapsack. It is measured; where the model was
wrong, it is corrected, and the next best is measured. Only what was measured is ever returned.
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

_STEPS = 1 << 16  # of all multiply-adds, in which the knapsack counts
_ROUNDS = 100  # of corrections, after which they agree with each other, if they can
_TOLERANCE = 1 + 1e-9  # of sums that were taken in another order
_PHASE = "searching which convolutions can be INT8"

Names = frozenset[str]


@dataclass(frozen=True)
class Assignment:
    """The best that was found.

    Attributes:
        int8: in the order of the network; empty if nothing was found to fit into the budget.
        measured: the loss; zero if nothing is in INT8.
        evaluations: how many losses the search asked for, remembered ones included.
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

    The verdict is `Loss.judged_db` as measured. All at once come first, then each alone, then at
    most `most_evaluations` proposals, each of more multiply-adds than the best so far. The search
    ends sooner where the corrected model has nothing left to propose. After misses in a row it aims
    lower, the more they are, and corrects the model in two ways in turn.

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
    """What is known, and what to measure next.

    Attributes:
        work: multiply-adds by name.
        known: losses by assignment, in order; that of nothing in INT8 is zero.
        alone: power of the noise of each convolution; those of infinite noise are never proposed.
    """

    def __init__(self, convolutions: Sequence[Convolution], budget_db: float) -> None:
        self.work = {convolution.name: convolution.multiply_adds for convolution in convolutions}
        if not convolutions or len(self.work) < len(convolutions):
            raise CalibrationError("expected convolutions, each with a name of its own")
        if not budget_db >= 0:
            raise CalibrationError(f"the budget is {budget_db} dB, expected 0 or more")
        self._budget_db = budget_db
        self.everything: Names = frozenset(self.work)
        self.known: dict[Names, Loss] = {frozenset(): Loss(0.0, 0.0)}
        self.alone: dict[str, float] = {}

    def fits(self, names: Names) -> bool:
        return self.known[names].judged_db <= self._budget_db

    def best(self) -> Names:
        """Of those that fit, the one with the most multiply-adds, then with the least loss."""
        return max(
            filter(self.fits, self.known),
            key=lambda names: (_sum(self.work, names), -self.known[names].judged_db),
        )

    def learn(self, sensitivities: Iterable[Sensitivity]) -> None:
        """Start the model from each convolution alone."""
        for sensitivity in sensitivities:
            name = sensitivity.convolution.name
            self.known[frozenset({name})] = sensitivity.alone
            if math.isfinite(sensitivity.alone.noise_db):
                self.alone[name] = _power(sensitivity.alone.noise_db)

    def fitted(self, *, bounds: bool) -> dict[str, float]:
        """Powers that add up to what was measured of each assignment, by iterative scaling.

        The members of one assignment after the other are multiplied by the ratio of what was
        measured to their sum. So blame falls on those that do not go together. But where errors
        add up to less than their sum, all that a bad assignment leaves out would seem cheap.

        Args:
            bounds: take an assignment that does not fit for a lower bound of the sum of its
                members, after the first round; right where errors add up to less.
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
        """An assignment that was not measured, of more multiply-adds than the best.

        The best of the model; else the best so far with one more, which by itself would fit into
        the rest of the budget.

        Args:
            caution: the share of this rest that is not aimed at.
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
    """Assignments whose costs add up to the limit or less, from the most work down.

    Of each amount of work the cheapest, by dynamic programming: exact, but for work being counted
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
    """Over names in any order, those without a value left out."""
    return math.fsum(values[name] for name in names if name in values)


def _power(db: float) -> float:
    return math.expm1(max(db, 0.0) * math.log(10) / 10)
