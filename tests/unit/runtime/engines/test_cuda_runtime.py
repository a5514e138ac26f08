"""What can be known without a GPU; tests/gpu has the rest."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

import pytest

from adadm.runtime.engines import cuda_runtime
from adadm.runtime.errors import MissingDependencyError, SessionError

needs_bindings = pytest.mark.skipif(
    not any(d.metadata["Name"] == "cuda-bindings" for d in metadata.distributions()),
    reason="cuda-bindings is not installed",
)


@pytest.fixture
def no_driver() -> None:
    if cuda_runtime.driver_version() is not None:
        pytest.skip("there is a driver here")


@needs_bindings
@pytest.mark.usefixtures("no_driver")
@pytest.mark.parametrize(
    "call",
    [
        cuda_runtime.compute_capability,
        cuda_runtime.device_name,
        cuda_runtime.memory,
        cuda_runtime.Stream,
        cuda_runtime.Event,
        lambda: cuda_runtime.HostBuffer(1),
        lambda: cuda_runtime.DeviceBuffer(1),
    ],
)
def test_without_a_driver_each_call_says_so(call: Callable[[], Any]) -> None:
    message = (
        r"^CUDA: cudaErrorInsufficientDriver, CUDA driver version is insufficient .*; "
        "this machine has no NVIDIA driver"
    )
    with pytest.raises(SessionError, match=message):
        call()


@needs_bindings
def test_the_runtime_is_of_the_version_that_was_installed() -> None:
    found = cuda_runtime.runtime_version()
    assert found is not None
    assert metadata.version("cuda-bindings").startswith(f"{found}.")


@needs_bindings
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cudaErrorNoDevice", "no CUDA-capable device .*; no NVIDIA GPU is visible: check"),
        ("cudaErrorMemoryAllocation", "out of memory; too little memory is free: .*--max$"),
        ("cudaErrorLaunchFailure", "unspecified launch failure$"),
    ],
)
def test_an_error_has_its_name_its_text_and_what_to_do(name: str, message: str) -> None:
    errors = import_module("cuda.bindings.runtime").cudaError_t
    for values in ((), (None,), (None, None)):
        with pytest.raises(SessionError, match=f"^CUDA: {name}, {message}"):
            cuda_runtime._checked((getattr(errors, name), *values))


@needs_bindings
@pytest.mark.usefixtures("no_driver")
def test_a_driver_that_is_too_old_is_told_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_runtime, "driver_version", lambda: "11.4")
    with pytest.raises(
        SessionError, match=r"the driver supports CUDA 11\.4, .*: update the driver"
    ):
        cuda_runtime.compute_capability()


def test_bindings_that_are_missing_are_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingDependencyError, match=r"cuda .*'adadm-deploy\[jetson\]'"):
        cuda_runtime.compute_capability()


def test_what_is_owned_is_freed_once() -> None:
    freed: list[str] = []
    with cuda_runtime._Owned("left", freed.append):
        assert freed == []
    assert freed == ["left"]

    closed = cuda_runtime._Owned("closed", freed.append)
    closed.close()
    closed.close()
    assert freed == ["left", "closed"]
    del closed

    forgotten = cuda_runtime._Owned("forgotten", freed.append)
    del forgotten
    gc.collect()
    assert freed == ["left", "closed", "forgotten"]

    with pytest.raises(ValueError, match="inside"), cuda_runtime._Owned("failed", freed.append):
        raise ValueError("inside")
    assert freed[3:] == ["failed"]
