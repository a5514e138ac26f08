"""Arguments for the sizes that an engine takes."""

from __future__ import annotations

import argparse

from adadm.runtime.bounds import integer, size
from adadm.runtime.engines.recipe import Bounds, default_bounds
from adadm.runtime.errors import EngineError

_MIB = 2**20


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Add the options for an engine's sizes and its builder's memory."""
    for name, words in (
        ("opt", "usual size; repeat for another profile; default: 1x256x256"),
        ("min", "least size, once for each --opt; default: 3/4 of the usual sides"),
        ("max", "largest size, which sets the memory; default: 5/4 of the usual sides"),
    ):
        parser.add_argument(
            f"--{name}", type=size, action="append", default=[], metavar="NxHxW", help=words
        )
    parser.add_argument(
        "--workspace",
        type=_mebibytes,
        metavar="MIB",
        help="limit of the builder's scratch memory, MiB",
    )


def _mebibytes(text: str) -> int:
    return int(integer(1, 2**20)(text)) * _MIB


def read_sizes(arguments: argparse.Namespace) -> list[Bounds]:
    """Bounds from the options of `add_sizes`, with defaults around the usual sizes; may be empty.

    Raises:
        EngineError: the number of least or largest sizes differs from that of the profiles.
    """
    if not (arguments.opt or arguments.min or arguments.max):
        return []
    around = [default_bounds(size) for size in arguments.opt] or [default_bounds()]
    for name, sizes in (("min", arguments.min), ("max", arguments.max)):
        if sizes and len(sizes) != len(around):
            raise EngineError(
                f"expected --{name} as often as --opt ({len(arguments.opt)} times), got "
                f"{len(sizes)}; each profile needs its own --opt"
            )
    least = arguments.min or [usual.minimum for usual in around]
    most = arguments.max or [usual.maximum for usual in around]
    return [Bounds(*sizes) for sizes in zip(least, (b.optimum for b in around), most, strict=True)]
