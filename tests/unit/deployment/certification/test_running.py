"""Runs of models whose metadata contradict their graphs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from _support.exports import exported
from adadm.deployment.certification.running import run_graph, run_session
from adadm.export import Options
from adadm.runtime.errors import CalibrationError, SessionError
from adadm.runtime.images.arrays import Batch
from adadm.runtime.models.metadata import ModelMetadata, QuantizationNote
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return exported("edsr", 2, Options(factors=True))[1]


@pytest.fixture
def metadata(model: onnx.ModelProto) -> ModelMetadata:
    return ModelMetadata.from_props({prop.key: prop.value for prop in model.metadata_props})


@pytest.fixture
def lr() -> Batch:
    return np.random.default_rng(0).uniform(0, 255, (1, 3, 12, 14)).astype(np.float32)


def test_a_result_of_another_size_than_the_factor_is_refused(
    model: onnx.ModelProto, metadata: ModelMetadata, lr: Batch
) -> None:
    with OnnxRuntimeSession(model.SerializeToString()) as session:
        assert run_session(session, metadata)(lr)[0].shape == (1, 3, 24, 28)
        with pytest.raises(SessionError, match=r"expected a result \(1, 3, 36, 42\)"):
            run_session(session, replace(metadata, upscale=3))(lr)


def test_more_scales_than_factors_are_refused(
    model: onnx.ModelProto, metadata: ModelMetadata, lr: Batch
) -> None:
    count = len(model.graph.output) - 1
    noted = QuantizationNote(
        budget_db=0.02,
        factor_scales=[2.0] * (count + 1),
        images_sha256="0" * 64,
        int8=[],
        precision="int8",
        target="cpu",
    )
    scaled = replace(metadata, quantization=noted)
    with pytest.raises(CalibrationError, match=f"expected a graph with the {count + 1} factors"):
        run_graph(model, scaled)
