"""The bundled model on the GPU against the CPU."""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
import pytest

from _support.parity import assert_parity
from adadm.runtime.onnxruntime_session import OnnxRuntimeSession


@pytest.mark.gpu
@pytest.mark.parametrize("upscale", [2, 4])
def test_cuda_agrees_with_cpu(upscale: int) -> None:
    model = (resources.files("adadm.runtime.models") / f"edsr_adadm_x{upscale}.onnx").read_bytes()
    lr = np.random.default_rng(0).uniform(0, 255, (1, 3, 67, 81)).astype(np.float32)
    cpu = OnnxRuntimeSession(model).run({"lr": lr})["sr"]
    providers: list[Any] = [("CUDAExecutionProvider", {"use_tf32": 0}), "CPUExecutionProvider"]
    cuda = OnnxRuntimeSession(model, providers=providers)
    assert_parity(cuda.run({"lr": lr})["sr"], cpu, "float32")
