"""One step of training: crops, loss, gradients, Adam."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from adadm.export.networks import Network
from training.crops import Crops

# Steps before a GPU's steps are captured: they choose algorithms and allocate memory.
_WARMUP_STEPS = 3


@dataclass(frozen=True)
class Phase:
    """Settings that change during a run.

    Attributes:
        half: the trunk runs in bfloat16.
        frozen: batch normalization uses its running statistics, as in deployment. Only then does
            the network meet the contrast of its later inputs: with the statistics of a batch, a
            picture of high contrast is normalized with itself.
    """

    half: bool
    frozen: bool


class Step:
    """A callable training step; on a GPU it is captured once in each phase, and replayed.

    The loss is L1, a mean over crops. Of a drawn crop only what exceeds the error of bicubic
    interpolation counts: such crops teach the network not to run away, and take no capacity from
    photographs. Above `outlier` the loss of a crop grows only logarithmically, so that the crops
    on which the network diverges, nearly all of them drawn, do not outweigh the others.

    Attributes:
        loss: sum of the losses since it was last zeroed, on the device, 0..rgb_range a step.
        learning_rate: learning rate of the next steps; a tensor on the device, to be filled.
    """

    def __init__(
        self,
        network: Network,
        crops: Crops,
        *,
        batch: int,
        clip: float,
        compiled: bool,
        device: torch.device,
    ) -> None:
        self.network, self.crops, self.clip = network, crops, clip
        self.on_gpu = device.type == "cuda"
        white = network.rgb_range
        self.outlier = torch.tensor([white / 8, white / 32], device=device)
        self.learning_rate = torch.zeros((), device=device)
        self.optimizer = torch.optim.Adam(
            network.parameters(), lr=self.learning_rate, fused=True, capturable=self.on_gpu
        )
        self.loss = torch.zeros((), device=device)
        self.features: Callable[[torch.Tensor], torch.Tensor] = (
            torch.compile(network.features) if compiled else network.features
        )
        self._places = torch.empty((4, batch), dtype=torch.int64, device=device)
        self._phase: Phase | None = None
        self._steps_of_phase = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, places: torch.Tensor, phase: Phase) -> None:
        """Train on the crops at the chosen places."""
        self._places.copy_(places, non_blocking=True)
        if phase != self._phase:
            self._phase, self._steps_of_phase, self._graph = phase, 0, None
        if self._graph is None and self.on_gpu and self._steps_of_phase == _WARMUP_STEPS:
            self._graph = torch.cuda.CUDAGraph()
            self.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(self._graph):
                self._train(phase)
        self._steps_of_phase += 1
        if self._graph is None:
            self._train(phase)
        else:
            self._graph.replay()

    def set_mode(self, phase: Phase) -> None:
        """Set the network to the mode of a phase, for example after evaluation."""
        self.network.train()
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train(not phase.frozen)

    def _train(self, phase: Phase) -> None:
        self.set_mode(phase)
        lr, hr = self.crops.cut(self._places)
        with torch.autocast(
            lr.device.type, torch.bfloat16, enabled=phase.half, cache_enabled=False
        ):
            trunk = self.features(lr)
        loss = self._loss(self.network.reconstruct(trunk.float()), hr, lr)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                parameter.grad.nan_to_num_(0, 0, 0)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        self.optimizer.step()
        self.loss += loss.detach()

    def _loss(self, sr: torch.Tensor, hr: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        is_drawn = self._places[0] >= self.crops.first_drawn
        errors = (sr - hr).abs().mean(dim=(1, 2, 3))
        if self.crops.first_drawn < self.crops.pictures:
            bicubic = nn.functional.interpolate(
                lr, scale_factor=self.crops.upscale, mode="bicubic", antialias=True
            ).clamp(0, self.network.rgb_range)
            allowed = is_drawn * (bicubic - hr).abs().mean(dim=(1, 2, 3))
            errors = (errors - allowed).clamp(min=0)
        outlier = self.outlier[is_drawn.long()]
        beyond = outlier * (1 + (errors.clamp(min=outlier) / outlier).log())
        return torch.where(errors > outlier, beyond, errors).mean()
