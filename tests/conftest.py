"""Options, and what is skipped without them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

import adadm.runtime  # noqa: F401 - before a test imports ONNX Runtime, which would call home


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")
    parser.addoption("--require-gpu", action="store_true", help="fail where a GPU is missing")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow; run with --slow"))
    on_gpu = [item for item in items if "gpu" in item.keywords]
    if on_gpu and not config.getoption("--require-gpu") and (reason := _why_no_gpu()):
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason=reason))


def _why_no_gpu() -> str | None:
    """Why the tests on a GPU cannot run, if they cannot."""
    tool = shutil.which("nvidia-smi")
    if tool is None or subprocess.run([tool], capture_output=True).returncode != 0:
        return "no NVIDIA GPU here"
    return None
