"""Arguments that verbs share: of a checkpoint, and of the form of a model."""

from __future__ import annotations

import argparse
import re

from adadm.export.networks import ARCHITECTURES

__all__ = ["add_network_options", "architecture", "shape"]


def shape(text: str) -> tuple[int, int, int]:
    """The type of `--static`: N, H and W."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not NxHxW, such as 1x270x480")
    return int(match[1]), int(match[2]), int(match[3])


def architecture(text: str) -> str:
    """The type of `--arch`."""
    if text in ("auto", *ARCHITECTURES) or re.fullmatch(r"\w+(\.\w+)*:\w+", text):
        return text
    known = ", ".join(("auto", *ARCHITECTURES))
    raise argparse.ArgumentTypeError(f"{text!r} is none of {known}, nor package.module:factory")


def add_network_options(parser: argparse.ArgumentParser) -> list[str]:
    """Add a flag for each hyper-parameter that no tensor shows; returns their names."""
    hidden: dict[str, list[str]] = {}
    for network in ARCHITECTURES.values():
        for name, value in {**network.template, **network.choices}.items():
            published = "none" if isinstance(value, type) else f"{value:g}"
            hidden.setdefault(name, []).append(f"{network.architecture} {published}")
    group = parser.add_argument_group(
        "what no tensor shows", "overrules the file's metadata and the values in brackets"
    )
    for name, values in hidden.items():
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, type=float, metavar="VALUE", help=f"[{', '.join(values)}]")
    return list(hidden)
