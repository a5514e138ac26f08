"""The reference without its limits, and the photographs on which that makes a difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

from adadm.calibration.quality.gates import shown_levels
from adadm.calibration.quality.ledger import Output
from adadm.deployment.certification.running import run_graph
from adadm.export.limits import remove_limits, without_limits
from adadm.export.networks import Network
from adadm.export.networks.network import named_modulators
from adadm.export.operators.modulator import LARGEST_EXPONENT, find_inlined
from adadm.export.proof.pytorch import run_with_factors
from adadm.runtime.images.arrays import Batch
from adadm.runtime.json_format import Figure
from adadm.runtime.models.metadata import ModelMetadata

_AT_LIMIT = 1e-5
"""Relative difference of a factor from that at its limit; float32 rounds by less."""


@dataclass(frozen=True)
class LimitEffect:
    """Effect of the limits on one photograph.

    Attributes:
        beyond: std of the trunk without limits, as a multiple of its limit, by block; of blocks in
            which it exceeds the limit.
        largest_error: largest difference of the results with and without limits, grey levels.
    """

    beyond: dict[str, Figure] = field(default_factory=dict)
    largest_error: Figure = 0.0


@dataclass(frozen=True)
class Modulation:
    """A modulator: `factor = exp(weight * ln(min(std, limit)) + bias)`; no limit is infinite."""

    block: str
    weight: float
    bias: float
    limit: float

    @property
    def exponent(self) -> float:
        """Logarithm of the factor at the limit."""
        if not self.weight or math.isinf(self.limit):
            return math.inf
        return min(self.weight * math.log(self.limit) + self.bias, LARGEST_EXPONENT)

    def is_reached(self, factor: float) -> bool:
        """True if the factor is that at the limit."""
        return factor > 0 and abs(math.log(factor) - self.exponent) < _AT_LIMIT

    def excess(self, factor: float) -> float:
        """Std of a factor without limits, as a multiple of the limit."""
        if not 0 <= factor < math.inf:
            return math.inf
        return math.exp((math.log(factor) - self.exponent) / self.weight) if factor else 0.0


@dataclass(frozen=True)
class Unlimited:
    """A reference without its limits.

    Below the limits its results are those of the reference to the bit, so it runs only where the
    reference reaches a limit.

    Attributes:
        run: runs it.
        modulations: modulators with the limits of the reference, in graph order.
    """

    run: Callable[[Batch], Output]
    modulations: Sequence[Modulation]

    @classmethod
    def of_network(cls, network: Network) -> Unlimited:
        """The network in PyTorch."""
        free = without_limits(network)
        modulations = []
        for name, module in named_modulators(network).items():
            assert module.bias is not None  # nn.Conv2d types it as optional
            limit = math.inf if module.limit is None else module.limit
            numbers = module.weight.item(), module.bias.item(), limit
            modulations.append(Modulation(block_name(name), *numbers))
        return cls(lambda lr: run_with_factors(free, lr), modulations)

    @classmethod
    def of_graph(
        cls, graph: onnx.ModelProto, blocks: Sequence[str], metadata: ModelMetadata
    ) -> Unlimited | None:
        """A graph whose modulators are inlined, on ONNX Runtime.

        None if it lacks the limits of its metadata, or has others.
        """
        model: ir.Model = ir.from_proto(graph)
        scales = metadata.factor_scales or [1.0] * len(blocks)
        found = find_inlined(model.graph)
        limited = any(math.isfinite(modulator.limit) for modulator in found)
        if limited != bool(metadata.limits) or len(found) != len(scales):
            return None
        modulations = [
            Modulation(block, each.weight, each.bias - math.log(scale), each.limit)
            for block, each, scale in zip(blocks, found, scales, strict=True)
        ]
        remove_limits(model.graph)
        return cls(run_graph(ir.to_proto(model), metadata), modulations)

    def effect(self, lr: Batch, limited: Output, rgb_range: float) -> LimitEffect:
        """Compare the output of the reference for a photograph with that without limits."""
        expected, factors = limited
        pairs = zip(self.modulations, factors, strict=True)
        if not any(modulation.is_reached(float(f.item())) for modulation, f in pairs):
            return LimitEffect()
        sr, free = self.run(lr)
        excesses = {
            modulation.block: modulation.excess(float(factor.item()))
            for modulation, factor in zip(self.modulations, free, strict=True)
            if math.isfinite(modulation.exponent)
        }
        beyond = {block: excess for block, excess in excesses.items() if excess > 1}
        if not beyond:
            return LimitEffect()
        difference = shown_levels(sr, rgb_range) - shown_levels(expected, rgb_range)
        return LimitEffect(beyond, float(np.abs(difference).max()))


def block_name(modulator: str) -> str:
    """Name of the block of a modulator."""
    return modulator.removesuffix(".phi")
