"""What the metadata of a network or of a model of it says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["NetworkMetadata", "lowering_notes"]


class NetworkMetadata:
    """What is known of a network by its metadata.

    Attributes:
        metadata: as `export.assembly.identity` writes it, at least.
    """

    metadata: Mapping[str, str]

    @property
    def upscale(self) -> int:
        return int(self.metadata["adadm.upscale"])

    @property
    def rgb_range(self) -> float:
        return float(self.metadata["adadm.rgb_range"])

    @property
    def smallest_area(self) -> int:
        """The least H*W of an input, px."""
        return int(self.metadata["adadm.smallest_area"])


def lowering_notes(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What was written down when a model was lowered; empty for one that was not."""
    noted: dict[str, Any] = json.loads(metadata.get("adadm.quantization", "{}"))
    return noted
