"""The Matplotlib style that all figures share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from adadm.runtime.errors import require


@contextmanager
def drawing_style(more: Mapping[str, Any] = MappingProxyType({})) -> Iterator[None]:
    """Apply a fixed style, so that equal figures give equal bytes whatever `matplotlibrc` says.

    A `matplotlibrc` in the working folder could also run LaTeX.

    Args:
        more: further settings of matplotlib by name.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib", "quantize")
    from matplotlib import style

    ours = {
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "adadm",
        "svg.fonttype": "none",
    }
    with style.context(["default", ours | dict(more)]):
        yield
