"""The bundled model on the GPU against the CPU."""

from __future__ import annotations

from importlib import resources

import numpy as np
import onnxruntime
import pytest

from _support.parity import assert_parity
from adadm.runtime.backends import open_session


@pytest.fixture(autouse=True)
def needs_cuda(request: pytest.FixtureRequest) -> None:
    providers = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" not in providers and not request.config.getoption("--require-gpu"):
        pytest.skip("ONNX Runtime is the CPU build; install the extra gpu in place of cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("upscale", [2, 4])
def test_cuda_agrees_with_cpu(upscale: int) -> None:
    model = (resources.files("adadm.runtime.models") / f"edsr_adadm_x{upscale}.onnx").read_bytes()
    lr = np.random.default_rng(0).uniform(0, 255, (1, 3, 67, 81)).astype(np.float32)
    cpu, cuda = (
        open_session(model, backend=backend).run({"lr": lr})["sr"] for backend in ("cpu", "cuda")
    )
    assert_parity(cuda, cpu, "float32")


@pytest.mark.gpu
def test_auto_takes_the_gpu(caplog: pytest.LogCaptureFixture) -> None:
    model = (resources.files("adadm.runtime.models") / "edsr_adadm_x2.onnx").read_bytes()
    with caplog.at_level("DEBUG", logger="adadm.runtime.backends"):
        open_session(model, backend="auto").close()
    assert "chose cuda" in caplog.messages
