"""Weak typing, only in TensorRT 8.x: the graph is float32, and the builder chooses types.

It chooses among the allowed types, except for layers pinned to float32, as with `trtexec --fp16
--int8 --precisionConstraints=obey --layerPrecisions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from adadm.runtime.errors import EngineError
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.targets import Precision

_TYPES: dict[Precision, tuple[str, ...]] = {
    "float32": (),
    "fp16": ("FP16",),
    "int8": ("FP16", "INT8"),
}


@dataclass(frozen=True)
class WeakTyping:
    """Types that a builder may choose.

    Attributes:
        types: allowed types besides float32: `FP16`, `INT8`.
        float32_layers: names of layers that must stay float32.
    """

    types: tuple[str, ...]
    float32_layers: tuple[str, ...] = ()

    @classmethod
    def of_model(cls, metadata: ModelMetadata) -> WeakTyping:
        """Weak typing that a model needs, by its metadata."""
        return cls(_TYPES[metadata.precision], tuple(metadata.float32_layers or ()))

    @classmethod
    def of_flags(cls, flags: Mapping[str, Any]) -> WeakTyping | None:
        """Weak typing from the flags of an engine's manifest; None for strong typing."""
        types = flags.get("weak_types")
        return None if types is None else cls(tuple(types), tuple(flags.get("float32_layers", ())))

    def trtexec_options(self, pairs: Callable[[str, Mapping[str, str]], str]) -> list[str]:
        """Options for `trtexec`.

        Args:
            pairs: formats an option and its mapping; refuses names that trtexec cannot read.
        """
        options = [f"--{name.lower()}" for name in self.types]
        if self.float32_layers:
            pinned = dict.fromkeys(self.float32_layers, "fp32")
            options += ["--precisionConstraints=obey", pairs("layerPrecisions", pinned)]
        return options

    def configure(self, trt: ModuleType, network: Any, config: Any) -> None:
        """Apply it to a builder's configuration and a parsed network.

        Raises:
            EngineError: none of the pinned layers is in the network.
        """
        for name in self.types:
            config.set_flag(getattr(trt.BuilderFlag, name))
        if not self.float32_layers:
            return
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        layers = (network.get_layer(index) for index in range(network.num_layers))
        pinned = [layer for layer in layers if layer.name in self.float32_layers]
        for layer in pinned:
            layer.precision = trt.float32
        if not pinned:
            raise EngineError(
                f"the network has none of the {len(set(self.float32_layers))} layers that must "
                f"stay float32, such as {self.float32_layers[0]}: the parser names layers "
                "differently from the file"
            )


def weak_flags(weak: WeakTyping | None) -> dict[str, Any]:
    """Flags of weak typing for an engine's manifest; None means strong typing."""
    return {
        "weak_types": weak and list(weak.types),
        "float32_layers": list(weak.float32_layers) if weak else [],
    }
