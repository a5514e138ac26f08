"""The Matplotlib style that all figures share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from adadm.runtime.errors import require
from adadm.runtime.files import cache_folder


@contextmanager
def drawing_style(more: Mapping[str, Any] = MappingProxyType({})) -> Iterator[None]:
    """Apply a fixed style, so that equal figures give equal bytes whatever `matplotlibrc` says.

    A `matplotlibrc` in the working folder could also run LaTeX.

    Args:
        more: further settings of matplotlib by name.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    # Its list of fonts belongs with our results, not in a folder of its own.
    os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
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
