"""Other usual values of the hyper-parameters that no tensor shows, tried on photographs.

A wrong value passes parity, since PyTorch has it too, and networks with AdaDM hardly depend on the
scale of their input: with the wrong one the result looks alive and is a few dB worse.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adadm.export.networks import Network
from adadm.export.proof.accuracy import Accuracy, measure_accuracy
from adadm.export.proof.cases import photograph_side

_USUAL: Mapping[str, tuple[float, ...]] = {"rgb_range": (1.0, 255.0), "res_scale": (1.0, 0.1)}

LEAST_GAIN_DB = 0.3
"""PSNR-Y by which another value must be better for a warning, dB: far above what the crops vary."""


@dataclass(frozen=True)
class TriedValues:
    """Mean PSNR-Y (dB) of small photographs with some values of the hyper-parameters."""

    values: Mapping[str, float]
    psnr_y_db: float


def try_usual_values(network: Network) -> list[TriedValues]:
    """Enlarge photographs with all usual values: those of the network first, without its limits.

    Returns:
        Nothing for a network whose tensors show both, or that has neither.
    """
    names = [name for name in _USUAL if name in network.template]
    given = {name: network.hyperparameters[name] for name in names}
    choices = [dict.fromkeys((given[name], *_USUAL[name])) for name in names]
    side = max(photograph_side(network) // 2, network.smallest_side)
    tried = []
    for values in itertools.product(*choices) if names else ():
        changed = dict(zip(names, values, strict=True))
        try:
            other = type(network)(**{**network.hyperparameters, **changed})
            other.root.load_state_dict(network.root.state_dict())
        except (ValueError, TypeError, RuntimeError):
            continue  # a network of a user's that has no other values
        accuracy = measure_accuracy(other.eval(), side)
        tried.append(TriedValues(changed, float(np.mean([a.network_db for a in accuracy]))))
    return tried


def warnings_of(
    accuracy: Sequence[Accuracy], tried: Sequence[TriedValues], guesses: Mapping[str, float]
) -> list[str]:
    """What photographs say against a network or its hyper-parameters.

    Args:
        tried: as `try_usual_values` returns.
        guesses: hyper-parameters that neither the file nor the user confirms.
    """
    found = []
    best = max(tried, key=lambda each: each.psnr_y_db, default=None)
    if best is not None and best.psnr_y_db >= tried[0].psnr_y_db + LEAST_GAIN_DB:
        now = {name: tried[0].values[name] for name in best.values}
        wrong = {name: value for name, value in best.values.items() if value != now[name]}
        flags = " ".join(f"--{name.replace('_', '-')} {v:g}" for name, v in wrong.items())
        found.append(
            f"WARNING: {_listed(wrong)} is better on photographs than "
            f"{_listed({name: now[name] for name in wrong})}: {best.psnr_y_db:.2f} dB PSNR-Y "
            f"instead of {tried[0].psnr_y_db:.2f} dB. If training used it, give {flags}"
        )
    worse = [each.name for each in accuracy if not each.network_db >= each.bicubic_db]
    if worse:
        cause = f"guessed: {_listed(guesses)}; set them by option"
        found.append(
            f"WARNING: the network is worse than bicubic interpolation on {', '.join(worse)} "
            f"({cause if guesses else 'nothing was guessed'}). It may be untrained, trained with "
            "different hyper-parameters, or made of parts of different networks"
        )
    return found


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())
