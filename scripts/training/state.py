"""What a run keeps beside its output, to go on after an interruption."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import torch

from adadm.export.networks import Network
from adadm.runtime.errors import CheckpointError
from adadm.runtime.files import written_whole


def resume_of(output: Path) -> Path:
    """Where a run keeps what it needs to go on."""
    return output.with_suffix(".resume")


@dataclass
class Training:
    """What changes from step to step, and the settings that must not.

    Attributes:
        generator: chooses the crops.
        elapsed_s: time that the steps so far took, over all runs.
    """

    settings: dict[str, float | str]
    network: Network
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0
    elapsed_s: float = 0.0

    def save(self, path: Path) -> None:
        """Write all that is needed to go on from here."""
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
        """Go on from what was saved.

        Raises:
            CheckpointError: it is of a run with other settings.
        """
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for name, value in self.settings.items():
            if (before := saved["settings"].get(name)) != value:
                raise CheckpointError(
                    f"{path} is of a run with {name} {before}, not {value}; "
                    "finish that one, or remove the file"
                )
        self.network.load_state_dict(saved["network"])
        rate = self.optimizer.param_groups[0]["lr"]  # the tensor that is filled in each step
        self.optimizer.load_state_dict(saved["optimizer"])
        self.optimizer.param_groups[0]["lr"] = rate
        self.generator.set_state(saved["generator"])
        self.step, self.elapsed_s = saved["step"], saved["elapsed_s"]
