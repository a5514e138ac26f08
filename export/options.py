"""Options for the form of an exported model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adadm.export.networks import Network
from adadm.export.proof.cases import Shape
from adadm.runtime.errors import ExportError

OPSETS = (17, 18, 19, 20)


@dataclass(frozen=True)
class Options:
    """Form of the exported model.

    Attributes:
        modulator: `function` keeps each modulator as one node with its body in the file; `inline`
            expands it, for runtimes that ignore model-local functions (TensorRT 8.x).
        fold: `exact` folds BatchNormalization; `off` keeps it, for tools that fold it themselves.
        tail: `collapsed` replaces a linear tail by one convolution and one DepthToSpace, exactly;
            `original` keeps it.
        io: `float32` for (N, 3, H, W) in 0..rgb_range, `uint8` for images (N, H, W, 3).
        opset: opset of the default domain, 17 to 20.
        static: N, H and W of a model of fixed size; None for free sizes.
        factors: add the modulation factors to the outputs.
        stats: `external` makes two more models, for running an image in tiles that share the
            statistics of the modulators.
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
    """Refuse options that are impossible for the network.

    Raises:
        ExportError: the opset is not supported, or the static size is too small.
    """
    if options.opset not in OPSETS:
        raise ExportError(f"expected opset {', '.join(map(str, OPSETS))}, got {options.opset}")
    if options.static is not None:
        _, height, width = options.static
        if height * width < network.smallest_area:
            side = network.smallest_side
            raise ExportError(
                f"expected a static size of at least {network.smallest_area} px for "
                f"{network.architecture}, such as {side}x{side}, got {height}x{width}"
            )
