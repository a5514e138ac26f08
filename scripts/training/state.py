"""State of a run, saved beside its output for resuming."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import torch

from adadm.export.networks import Network
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
            "optimizer": self.optimizer.state_dict(),
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
            CheckpointError: the state is of a run with other settings.
        """
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for name, value in self.settings.items():
            if (before := saved["settings"].get(name)) != value:
                raise CheckpointError(
                    f"{path} is of another run: expected {name} {value}, got {before}; "
                    "finish that run, or remove the file"
                )
        self.network.load_state_dict(saved["network"])
        rate = self.optimizer.param_groups[0]["lr"]  # the tensor that each step fills
        self.optimizer.load_state_dict(saved["optimizer"])
        self.optimizer.param_groups[0]["lr"] = rate
        self.generator.set_state(saved["generator"])
        self.step, self.elapsed_s = saved["step"], saved["elapsed_s"]
