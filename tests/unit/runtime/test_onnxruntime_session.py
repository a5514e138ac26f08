"""On a bundled model: what a device has, without onnx."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from adadm.runtime.errors import SessionError
from adadm.runtime.onnxruntime_session import OnnxRuntimeSession

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture(scope="module")
def session() -> OnnxRuntimeSession:
    model = resources.files("adadm.runtime.models") / "edsr_adadm_x2.onnx"
    return OnnxRuntimeSession(model.read_bytes())


def test_specs_and_metadata(session: OnnxRuntimeSession) -> None:
    assert [(spec.name, spec.shape, spec.dtype) for spec in session.inputs] == [
        ("lr", ("N", 3, "H", "W"), np.dtype(np.float32))
    ]
    assert session.outputs[0].name == "sr"
    assert session.metadata["adadm.upscale"] == "2"


def test_runs_any_size(session: OnnxRuntimeSession) -> None:
    lr = np.random.default_rng(0).uniform(0, 255, (2, 3, 5, 9)).astype(np.float32)
    assert session.run({"lr": lr})["sr"].shape == (2, 3, 10, 18)


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        (
            {"input": np.zeros((1, 3, 4, 4), np.float32)},
            r"fed \['input'\], the model reads \['lr'\]",
        ),
        ({}, r"fed \[\]"),
        ({"lr": np.zeros((1, 3, 4, 4))}, "lr is float64 .* expected float32"),
        ({"lr": np.zeros((1, 4, 4, 3), np.float32)}, r"lr is float32 \(1, 4, 4, 3\), expected"),
        ({"lr": np.zeros((3, 4, 4), np.float32)}, r"lr is float32 \(3, 4, 4\), expected"),
    ],
)
def test_a_feed_that_does_not_fit_is_refused(
    session: OnnxRuntimeSession, feed: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(SessionError, match=message):
        session.run(feed)


def test_a_provider_that_is_missing_is_named_and_not_replaced() -> None:
    with pytest.raises(SessionError, match=r"no NoSuchProvider; it has .*CPUExecutionProvider"):
        OnnxRuntimeSession(b"", providers=["NoSuchProvider", "CPUExecutionProvider"])


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(SessionError, match=r"cannot load .*broken.onnx"):
        OnnxRuntimeSession(tmp_path / "broken.onnx")
    with pytest.raises(SessionError, match=r"cannot load .*missing.onnx"):
        OnnxRuntimeSession(tmp_path / "missing.onnx")
    with pytest.raises(SessionError, match="cannot load the model"):
        OnnxRuntimeSession(b"no model")
