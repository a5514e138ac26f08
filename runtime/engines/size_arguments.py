"""Arguments that say which sizes an engine takes."""

from __future__ import annotations

import argparse

from adadm.runtime.arguments import positive, size
from adadm.runtime.engines.recipe import Bounds, default_bounds
from adadm.runtime.errors import EngineError

_MIB = 2**20


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which sizes an engine takes, and what its builder may."""
    for name, words in (
        ("opt", "the usual size; give it again for another profile; default: 1x256x256"),
        ("min", "the least size, once for each --opt; default: 3/4 of the usual sides"),
        ("max", "the largest, which sets the memory; default: 5/4 of the usual sides"),
    ):
        parser.add_argument(
            f"--{name}", type=size, action="append", default=[], metavar="NxHxW", help=words
        )
    parser.add_argument(
        "--workspace",
        type=lambda text: positive(text) * _MIB,
        metavar="MIB",
        help="scratch that the builder may take",
    )


def read_sizes(arguments: argparse.Namespace) -> list[Bounds]:
    """What `add_sizes` was given, completed by a small range around the usual sizes; or nothing.

    Raises:
        EngineError: there are more or fewer of the least or largest sizes than profiles.
    """
    if not (arguments.opt or arguments.min or arguments.max):
        return []
    around = [default_bounds(size) for size in arguments.opt] or [default_bounds()]
    for name, sizes in (("min", arguments.min), ("max", arguments.max)):
        if sizes and len(sizes) != len(around):
            raise EngineError(
                f"--{name} is given {len(sizes)} times and --opt {len(arguments.opt)} times; each "
                "profile needs its own --opt"
            )
    least = arguments.min or [usual.minimum for usual in around]
    most = arguments.max or [usual.maximum for usual in around]
    return [Bounds(*sizes) for sizes in zip(least, (b.optimum for b in around), most, strict=True)]
