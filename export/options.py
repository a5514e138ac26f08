"""The form of an exported model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adadm.export.networks import Network
from adadm.export.proof.cases import Shape
from adadm.runtime.errors import ExportError

OPSETS = (17, 18, 19, 20)


@dataclass(frozen=True)
class Options:
    """The form of the exported model.

    Attributes:
        modulator: `function` keeps each modulator one node with its body in the file; `inline`
            expands it, for runtimes that ignore model-local functions (TensorRT 8.x).
        fold: `exact` folds BatchNormalization; `off` keeps it, for tools that fold by themselves.
        tail: `collapsed` makes one convolution and one DepthToSpace of a linear tail, exactly;
            `original` keeps it.
        io: `float32` for (N, 3, H, W) in 0..rgb_range, `uint8` for images (N, H, W, 3).
        opset: of the default domain, 17 to 20.
        static: N, H and W where the sizes are to be fixed.
        factors: add the modulation factors to the outputs.
        stats: `external` makes two more models, with which an image can be run in tiles that share
            the statistics of the modulators.
    """

    modulator: Literal["function", "inline"] = "function"
    fold: Literal["exact", "off"] = "exact"
    tail: Literal["collapsed", "original"] = "collapsed"
    io: Literal["float32", "uint8"] = "float32"
    opset: int = 19
    static: Shape | None = None
    factors: bool = False
    stats: Literal["internal", "external"] = "internal"


DEFAULTS = Options()


def check_options(options: Options, network: Network) -> None:
    """Refuse options that no model of the network can have.

    Raises:
        ExportError: the opset is not supported, or the static size is too small.
    """
    if options.opset not in OPSETS:
        raise ExportError(f"opset {options.opset} is not supported; choose one of {OPSETS}")
    if options.static is not None:
        _, height, width = options.static
        if height * width < network.smallest_area:
            side = network.smallest_side
            raise ExportError(
                f"the static size {height}x{width} has {height * width} px, {network.architecture} "
                f"needs at least {network.smallest_area}, such as {side}x{side}"
            )
