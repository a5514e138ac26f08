"""State of a run, saved beside its output for resuming."""

from __future__ import annotations

import io
import math
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adadm.export.networks import Network
from adadm.export.weights.dense_tensors import flaw_of
from adadm.export.weights.harmless_types import read_pickle
from adadm.runtime.errors import CheckpointError
from adadm.runtime.files import written_whole


def resume_of(output: Path) -> Path:
    """Path of the saved state of a run."""
    return output.with_suffix(".resume")


@dataclass
class Training:
    """State that changes from step to step, and the settings that must not change.

    Attributes:
        generator: chooses the crops.
        elapsed_s: duration of all steps so far, over all runs.
    """

    settings: dict[str, float | str]
    network: Network
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0
    elapsed_s: float = 0.0

    def save(self, path: Path) -> None:
        """Save everything that resuming from this step needs."""
        content = io.BytesIO()
        saved = {
            "settings": self.settings,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "generator": self.generator.get_state(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
        }
        torch.save(saved, content)
        with written_whole(path) as partial:
            partial.write_bytes(content.getvalue())

    def restore(self, path: Path) -> None:
        """Restore a saved state.

        Raises:
            CheckpointError: the file is damaged, or of a run with other settings. Nothing is
                restored then.
        """
        try:
            saved = read_pickle(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; or remove the file to begin anew") from error
        settings = _dictionary(path, _dictionary(path, saved).get("settings"))
        for name, value in self.settings.items():
            before = settings.get(name)
            if type(before) is not type(value) or before != value:
                raise CheckpointError(
                    f"{path} is of another run: expected {name} {value}, got "
                    f"{reprlib.repr(before)}; finish that run, or remove the file"
                )
        generator = torch.Generator()
        try:
            _check_alike(saved, self._form(_dictionary(path, saved.get("optimizer"))))
            generator.set_state(saved["generator"])
        except (ValueError, RuntimeError) as error:
            raise _refused(path, error) from error
        self.network.load_state_dict(dict(saved["network"]))  # without what pickles add
        rate = self.optimizer.param_groups[0]["lr"]  # the tensor that each step fills
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": saved["optimizer"], "param_groups": groups})
        self.optimizer.param_groups[0]["lr"] = rate
        self.generator.set_state(generator.get_state())
        self.step, self.elapsed_s = saved["step"], saved["elapsed_s"]

    def _form(self, optimizer: dict[Any, Any]) -> dict[str, Any]:
        """What a saved state looks like, with an optimizer that has stepped these parameters."""
        parameters = dict(enumerate(self.network.parameters()))
        adam = {
            index: {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
            for index, parameter in parameters.items()
            if index in optimizer  # one that is frozen has no state
        }
        return {
            "settings": self.settings,
            "network": self.network.state_dict(),
            "optimizer": adam,
            "generator": self.generator.get_state(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
        }


def _dictionary(path: Path, value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise _refused(path, f"expected a state of training, got {reprlib.repr(value)}")
    return value


def _refused(path: Path, problem: object) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {problem}; remove the file to begin anew")


def _check_alike(found: Any, expected: Any, where: str = "state") -> None:
    """Compare types, names and shapes, and check that numbers are finite.

    Raises:
        ValueError: something differs, or is not finite.
    """
    if isinstance(expected, dict):
        if not isinstance(found, dict) or found.keys() != expected.keys():
            raise ValueError(f"{where} has other names")
        for name, value in expected.items():
            _check_alike(found[name], value, f"{where}, {name}")
    elif isinstance(expected, torch.Tensor):
        if not isinstance(found, torch.Tensor) or flaw_of(found) or not _same(found, expected):
            raise ValueError(f"{where} is another tensor")
        if not found.isfinite().all():
            raise ValueError(f"{where} is not finite")
    elif type(found) is not type(expected) or (
        isinstance(expected, (int, float)) and not abs(found) < math.inf
    ):
        raise ValueError(f"{where}: expected a {type(expected).__name__}")


def _same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.dtype == expected.dtype and found.shape == expected.shape
