"""Arguments for what a checkpoint lacks: its architecture, and what no tensor shows."""

from __future__ import annotations

import argparse
import re
from typing import Any

from adadm.export.limits import FACTOR
from adadm.export.networks import ARCHITECTURES
from adadm.runtime.bounds import number


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add `--arch`, `--limit`, `--weights`, and a flag for each hyper-parameter of no tensor."""
    parser.add_argument(
        "--arch",
        type=_architecture,
        default="auto",
        help=f"architecture of a checkpoint: {', '.join(ARCHITECTURES)}, or "
        "package.module:factory for your own network; default: auto, recognised by the tensors",
    )
    add_limit(parser)
    add_weights(parser)
    group = parser.add_argument_group(
        "hyper-parameters that no tensor shows", "override the file and the values in brackets"
    )
    for name, values in _undetectable().items():
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(
            flag, type=number(-1e38, 1e38), metavar="VALUE", help=f"[{', '.join(values)}]"
        )


def add_limit(parser: argparse.ArgumentParser) -> None:
    """Add `--limit`: how far the factors of a checkpoint follow the deviation of a trunk."""
    parser.add_argument(
        "--limit",
        type=number(0, 1e6, "auto", "off", above=True),
        metavar="auto|off|FACTOR",
        help="for a checkpoint: let factors follow the deviation of a trunk only up to FACTOR "
        "times that of training, so that high contrast cannot run away; auto: the file's limits, "
        f"else {FACTOR}; default: auto",
    )


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Add `--weights`: which of several state dicts in a checkpoint."""
    parser.add_argument(
        "--weights",
        metavar="KEY",
        help="key of the state dict in a checkpoint, such as params_ema; default: the averaged "
        "one (EMA), else the largest",
    )


def add_stats(parser: argparse.ArgumentParser, external: str) -> None:
    """Add `--stats`: computed inside the model, or given to models for tiles from outside.

    Args:
        external: help for `external`: what the verb does then.
    """
    parser.add_argument(
        "--stats",
        choices=("internal", "external"),
        default="internal",
        help=f"external: {external}",
    )


def network_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Values of these options, as keyword arguments of `load_checkpoint`."""
    values = {
        name: getattr(arguments, name) for name in ("arch", "limit", "weights", *_undetectable())
    }
    return {name: value for name, value in values.items() if value is not None}


def _undetectable() -> dict[str, list[str]]:
    """Published values of each hyper-parameter that no tensor shows, with their networks."""
    published: dict[str, list[str]] = {}
    for network in ARCHITECTURES.values():
        for name, value in {**network.template, **network.choices}.items():
            shown = "none" if isinstance(value, type) else f"{value:g}"
            published.setdefault(name, []).append(f"{network.architecture} {shown}")
    return published


def _architecture(text: str) -> str:
    if text in ("auto", *ARCHITECTURES) or re.fullmatch(r"\w+(\.\w+)*:\w+", text):
        return text
    names = ", ".join(("auto", *ARCHITECTURES))
    raise argparse.ArgumentTypeError(f"expected {names} or package.module:factory, got {text!r}")
