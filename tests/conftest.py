"""Options, what is skipped without them, and what every test must leave as it was."""

from __future__ import annotations

import functools
import gc
import importlib.util
import shutil
import subprocess
import threading
from collections.abc import Iterator
from unittest.mock import patch

import hypothesis
import pytest

import adadm.runtime  # noqa: F401 - before a test imports ONNX Runtime, which would call home
from _support.slow import changed_files, imported, is_due
from _support.waiting import FOREVER_S

for name, examples in (("quick", 15), ("thorough", 100)):
    hypothesis.settings.register_profile(
        name,
        max_examples=examples,
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")
    parser.addoption(
        "--slow-share",
        metavar="PART/PARTS",
        help="run the slow tests that are due alone: of what the last commits changed, and a part",
    )
    parser.addoption("--require-gpu", action="store_true", help="fail where a GPU is missing")


def pytest_configure(config: pytest.Config) -> None:
    is_slow = config.getoption("--slow") or config.getoption("--slow-share")
    hypothesis.settings.load_profile("thorough" if is_slow else "quick")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        _leave_out_slow(config, items)
    on_gpu = [item for item in items if "gpu" in item.keywords]
    if on_gpu and not config.getoption("--require-gpu") and (reason := _why_no_gpu()):
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason=reason))


def _leave_out_slow(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All that are slow, or with a share all that is not due."""
    share = config.getoption("--slow-share")
    changed = changed_files(config.rootpath) if share else ()
    read = functools.cache(imported)

    def runs(item: pytest.Item) -> bool:
        if not share:
            return "slow" not in item.keywords
        return "slow" in item.keywords and is_due(item.nodeid, read(item.path), changed, share)

    left_out = [item for item in items if not runs(item)]
    items[:] = [item for item in items if runs(item)]
    config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.collect()
    gc.freeze()  # what was imported is not looked through again and again


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # libraries complain of what is left at the end


def _why_no_gpu() -> str | None:
    """Why the tests on a GPU cannot run, if they cannot."""
    tool = shutil.which("nvidia-smi")
    if tool is None or subprocess.run([tool], capture_output=True).returncode != 0:
        return "no NVIDIA GPU here"
    return None


@pytest.fixture(scope="session", autouse=True)
def auto_is_the_first_backend() -> Iterator[None]:
    """Not the fastest, which a busy machine may change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adadm.runtime.backends.time_backends", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def equal_networks_are_exported_once() -> Iterator[None]:
    """By PyTorch, whose table of operators is made once; what is made of graphs is made anew."""
    if importlib.util.find_spec("torch") is None:  # a Python on which the runtime alone is tested
        yield
        return
    import torch
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    from _support.kept_exports import exporting_once
    from adadm.export import tracing

    table = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
    export = exporting_once(torch.onnx.export)
    with (
        patch.object(tracing, "export", export),
        patch.object(ONNXRegistry, "from_torchlib", table),
    ):
        yield


@pytest.fixture
def no_thread_stays() -> Iterator[None]:
    yield
    ours = ("read ahead", "photo enc", "finish", "capture", "sink")
    for thread in threading.enumerate():
        if thread.name.startswith(ours):
            thread.join(FOREVER_S)
            assert not thread.is_alive(), thread.name
