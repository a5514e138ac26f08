"""Bounds of values: parsers of numbers for `argparse`, and tests for annotations."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fits:
    """A test that values of an annotated type pass: `Annotated[int, within(1, 64)]`.

    Attributes:
        described: values that pass it, for messages.
    """

    test: Callable[[Any], object]
    described: str


def within(least: float, most: float) -> Fits:
    """Make a test of numbers, bounds included."""
    return Fits(lambda value: least <= value <= most, f"a number from {least:g} to {most:g}")


def integer(least: int, most: int, *words: str) -> Callable[[str], Any]:
    """Make a parser of an integer within bounds.

    Args:
        words: texts that are accepted in place of a number.
    """

    def parse(text: str) -> int | str:
        if text in words:
            return text
        if re.fullmatch(r"[0-9]{1,18}", text) and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(
            f"expected {_either(words)}an integer from {least} to {most}, got {_cut(text)}"
        )

    return parse


def number(
    least: float, most: float, *words: str, unit: str = "", above: bool = False
) -> Callable[[str], Any]:
    """Make a parser of a number within bounds.

    Args:
        words: texts that are accepted in place of a number.
        unit: what is counted, for messages.
        above: refuse the least itself.
    """

    def parse(text: str) -> float | str:
        if text in words:
            return text
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if least <= value <= most and not (above and value == least):
            return value
        counted = f"a number of {unit}" if unit else "a number"
        bounds = f"above {least:g}, at most" if above else f"from {least:g} to"
        raise argparse.ArgumentTypeError(
            f"expected {_either(words)}{counted} {bounds} {most:.12g}, got {_cut(text)}"
        )

    return parse


positive = integer(1, 1_000_000)
above_zero = number(0, 1_000_000, above=True)
decibels = number(0, 1000, unit="dB")
seconds = number(0, 86_400, unit="seconds")

_MOST_PX = 2**28


def size(text: str) -> tuple[int, int, int]:
    """Parse NxHxW: batch, height and width."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})x([1-9][0-9]{0,8})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected NxHxW, such as 1x270x480, got {_cut(text)}")
    batch, height, width = map(int, match.groups())
    if batch * height * width > _MOST_PX:
        raise argparse.ArgumentTypeError(f"expected at most {_MOST_PX} px in all, got {text!r}")
    return batch, height, width


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words)} or " if words else ""


def _cut(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
