"""Every backend on a bundled model: what a device has, without onnx."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from _support.repeating_session import RepeatingSession
from adadm.runtime.backends import AUTO_ORDER, BACKENDS, ModelPath, open_session
from adadm.runtime.errors import EngineError, RefusedModelError, SessionError
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from adadm.runtime.sessions.session import FloatArray, Session, SizeRange

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

MODEL = (resources.files("adadm.runtime.models") / "edsr_adadm_x2.onnx").read_bytes()


needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)
ON_CPU = ["cpu", pytest.param("openvino", marks=needs_openvino)]


@pytest.fixture(scope="module", params=ON_CPU)
def session(request: pytest.FixtureRequest) -> Session:
    return open_session(MODEL, backend=request.param)


def test_specs_and_metadata(session: Session) -> None:
    (lr,), (sr,) = session.inputs, session.outputs
    assert (lr.name, lr.dtype.name, sr.name, sr.dtype.name) == ("lr", "float32", "sr", "float32")
    assert [isinstance(size, int) for size in lr.shape] == [False, True, False, False]
    assert session.metadata.upscale == 2


def test_runs_any_size(session: Session) -> None:
    for shape in ((2, 3, 5, 9), (1, 3, 1, 1), (1, 3, 40, 8)):
        lr = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
        batch, _, height, width = shape
        assert session.run({"lr": lr})["sr"].shape == (batch, 3, 2 * height, 2 * width)


@pytest.mark.parametrize("shape", [(3, 3, 9, 14), (2, 3, 1, 1)])
def test_images_of_a_batch_do_not_touch_each_other(
    session: Session, shape: tuple[int, ...]
) -> None:
    lr = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    together = session.run({"lr": lr})["sr"]
    alone = np.concatenate([session.run({"lr": image[None]})["sr"] for image in lr])
    np.testing.assert_allclose(together, alone, atol=1e-3, rtol=1e-5)


def test_results_stay_when_it_runs_again(session: Session) -> None:
    lr = np.random.default_rng(0).uniform(0, 255, (1, 3, 9, 9)).astype(np.float32)
    first = session.run({"lr": lr})["sr"]
    kept = first.copy()
    np.testing.assert_array_equal(session.run_shared({"lr": lr})["sr"], kept)
    session.run({"lr": np.zeros_like(lr)})
    np.testing.assert_array_equal(first, kept)


def test_arrays_in_any_memory_order(session: Session) -> None:
    lr = np.random.default_rng(0).uniform(0, 255, (1, 3, 9, 12)).astype(np.float32)
    turned = np.asfortranarray(lr)
    np.testing.assert_array_equal(session.run({"lr": turned})["sr"], session.run({"lr": lr})["sr"])


@needs_openvino
def test_backends_agree() -> None:
    lr = np.random.default_rng(0).uniform(0, 255, (1, 3, 33, 20)).astype(np.float32)
    cpu, other = (
        open_session(MODEL, backend=name).run({"lr": lr})["sr"] for name in ("cpu", "openvino")
    )
    assert np.abs(cpu - other).max() <= 3e-5 * np.abs(cpu).max()


@pytest.mark.parametrize("backend", ON_CPU)
def test_a_closed_session_says_so(backend: str) -> None:
    lr = np.zeros((1, 3, 4, 4), np.float32)
    with open_session(MODEL, backend=backend, threads=1) as session:
        assert session.run({"lr": lr})["sr"].shape == (1, 3, 8, 8)
    session.close()
    with pytest.raises(SessionError, match="the session is closed"):
        session.run({"lr": lr})


def test_auto_follows_its_order(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def absent(model: ModelPath, threads: int) -> Session:
        raise SessionError("no device")

    assert AUTO_ORDER == ("cuda", "openvino", "cpu")
    for name in ("cuda", "openvino"):
        monkeypatch.setitem(BACKENDS, name, absent)
    with caplog.at_level("DEBUG", logger="adadm.runtime.backends"):
        open_session(MODEL, backend="auto").close()
    expected = ["passed over cuda: no device", "passed over openvino: no device", "chose cpu"]
    assert caplog.messages == expected
    monkeypatch.setitem(BACKENDS, "cpu", absent)
    with pytest.raises(SessionError, match=r"(?s)no backend can load the model:.*cpu: no device"):
        open_session(MODEL, backend="auto")


def _broken(change: Callable[[Any], object]) -> bytes:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(MODEL)
    change(model)
    return bytes(model.SerializeToString())


def _noted(entries: dict[str, str], *, declared: bool = True) -> bytes:
    def change(model: Any) -> None:
        if not declared:
            for dimension in model.graph.output[0].type.tensor_type.shape.dim:
                dimension.Clear()
        kept = {entry.key: entry.value for entry in model.metadata_props}
        del model.metadata_props[:]
        for key, text in {**kept, **{f"adadm.{k}": v for k, v in entries.items()}}.items():
            model.metadata_props.add(key=key, value=text)

    return _broken(change)


@pytest.mark.parametrize("backend", [*ON_CPU, "auto"])
def test_metadata_of_another_model_is_refused(backend: str) -> None:
    for entries in ({"rgb_range": "-255"}, {"upscale": "x"}, {"io": "uint8"}, {"memory": "[1]"}):
        with pytest.raises(EngineError, match=r"^the model: [^\n]*; export it again$"):
            open_session(_noted(entries), backend=backend)


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("factor", ["1", "3", "4"])
def test_a_result_of_another_factor_is_refused(backend: str, factor: str) -> None:
    lr = np.full((1, 3, 12, 14), 7, np.float32)
    with pytest.raises(EngineError, match=rf"upscale {factor}, so expected sr .*{factor}\*H"):
        open_session(_noted({"upscale": factor}), backend=backend)
    with open_session(_noted({"upscale": factor}, declared=False), backend=backend) as session:
        for run in (session.run, session.run_shared):
            with pytest.raises(SessionError, match=rf"upscale {factor}, got \(1, 3, 24, 28\)"):
                run({"lr": lr})


@pytest.mark.parametrize("backend", ON_CPU)
def test_a_model_that_reads_something_else_is_refused(backend: str) -> None:
    with open_session(MODEL, backend=backend) as session:
        session.expect(("lr",), "sr", "x.onnx")
        for reads, returns in ((("lr", "std"), "sr"), (("lr",), "moments"), (("rl",), "sr")):
            with pytest.raises(SessionError, match=rf"x.onnx: expected .* returns {returns}, got"):
                session.expect(reads, returns, "x.onnx")


@pytest.mark.parametrize("backend", ["cpu", "openvino", "auto"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: model.graph.node.pop(3), "norm2"),
        (lambda model: model.graph.initializer.pop(0), "tail.0.0.bias"),
        (lambda model: setattr(model.graph.node[0], "op_type", "Nope"), "Nope|Conv"),
        (lambda model: setattr(model.graph.initializer[1], "raw_data", b"1234"), "tail.1.bias"),
    ],
    ids=["a node is gone", "weights are gone", "an unknown operator", "weights are cut"],
)
def test_what_a_backend_refuses_is_said_in_one_line(
    change: Callable[[Any], object], said: str, backend: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RefusedModelError, match=said) as refusal:
        open_session(_broken(change), backend=backend)
    message = str(refusal.value)
    assert "\n" not in message and len(message) < 800
    assert not any(part in message for part in (".cpp", "_src/", "ONNXRuntimeError", "Exception f"))
    assert capfd.readouterr() == ("", "")


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        SessionError,
        match="expected backend auto, cpu, openvino, cuda, tensorrt, engine, got 'gpu'",
    ):
        open_session(MODEL, backend="gpu")


@pytest.mark.parametrize("name", ["x2.engine", "x2.plan"])
def test_an_engine_is_opened_by_its_own_backend_alone(name: str, tmp_path: Path) -> None:
    for backend in ("auto", "engine"):
        with pytest.raises(EngineError, match=rf"{name} cannot be read"):
            open_session(tmp_path / name, backend=backend)
    for backend in sorted(BACKENDS.keys() - {"engine"}):
        with pytest.raises(
            SessionError, match=rf"{name} is an engine, which {backend} cannot run; choose engine"
        ):
            open_session(str(tmp_path / name), backend=backend)
    with pytest.raises(SessionError, match="tensorrt, engine, got 'gpu'"):
        open_session(tmp_path / name, backend="gpu")


def test_the_backend_of_engines_opens_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(
        SessionError, match=r"x2\.onnx is not a TensorRT engine .* with 'adadm build'"
    ):
        open_session(tmp_path / "x2.onnx", backend="engine")
    with pytest.raises(SessionError, match="a model in memory is not a TensorRT engine"):
        open_session(MODEL, backend="engine")


@pytest.mark.parametrize("backend", ON_CPU)
def test_a_session_knows_its_backend_also_behind_auto(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adadm.runtime.backends.AUTO_ORDER", (backend,))
    for name in (backend, "auto"):
        with open_session(MODEL, backend=name) as opened:
            assert opened.backend == backend


@pytest.mark.parametrize("io", ["float32", "uint8"])
def test_an_image_below_the_smallest_is_refused_in_either_layout(io: str) -> None:
    images = io == "uint8"
    small = RepeatingSession(
        (1, "H", "W", 3) if images else (1, 3, "H", "W"), io, io=io, smallest_area="6"
    )

    def feed(height: int, width: int) -> dict[str, FloatArray]:
        return {"lr": np.zeros((1, height, width, 3) if images else (1, 3, height, width), io)}

    small.run(feed(2, 3))
    small.run(feed(6, 1))
    with pytest.raises(SessionError, match="lr: expected at least 6 px in all, got 1x5"):
        small.run(feed(1, 5))


@pytest.mark.parametrize("io", ["float32", "uint8"])
@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((1, "H", "W"), [SizeRange()]),
        (("N", "H", "W"), [SizeRange()]),
        ((1, 20, 30), [SizeRange((20, 30), (20, 30))]),
        ((1, "H", 30), [SizeRange((1, 30), (SizeRange().most[0], 30))]),
        ((2, 20, 30), []),
    ],
)
def test_which_images_a_model_takes(
    lengths: tuple[int | str, ...], expected: list[SizeRange], io: str
) -> None:
    batch, height, width = lengths
    shape = (batch, height, width, 3) if io == "uint8" else (batch, 3, height, width)
    assert RepeatingSession(shape, io, io=io).sizes == expected


def test_a_range_of_sizes_ends_with_its_ends() -> None:
    sizes = SizeRange((10, 20), (30, 40))
    held = {
        (height, width)
        for height in range(50)
        for width in range(50)
        if sizes.holds((height, width))
    }
    assert held == {(height, width) for height in range(10, 31) for width in range(20, 41)}
    assert [sizes.nearest(size) for size in ((5, 50), (10, 40), (15, 15))] == [
        (10, 40),
        (10, 40),
        (15, 20),
    ]
    assert (sizes.is_fixed, sizes.is_bounded, str(sizes)) == (False, True, "20x10 to 40x30 px")
    fixed = SizeRange((10, 20), (10, 20))
    assert (fixed.is_fixed, fixed.is_bounded, str(fixed)) == (True, True, "20x10 px")
    half = SizeRange((10, 1), (10, SizeRange().most[1]))
    assert (half.is_fixed, half.is_bounded, str(half)) == (False, False, "1x10 to anyx10 px")
    assert not SizeRange().is_bounded and SizeRange().holds((10**9, 10**9))


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        (
            {"input": np.zeros((1, 3, 4, 4), np.float32)},
            r"expected inputs \['lr'\], got \['input'\]",
        ),
        ({}, r"got \[\]"),
        ({"lr": np.zeros((1, 3, 4, 4))}, "lr: expected float32 .* got float64"),
        (
            {"lr": np.zeros((1, 4, 4, 3), np.float32)},
            r"lr: expected .*, got float32 \(1, 4, 4, 3\)",
        ),
        ({"lr": np.zeros((3, 4, 4), np.float32)}, r"lr: expected .*, got float32 \(3, 4, 4\)"),
    ],
)
def test_a_feed_that_does_not_fit_is_refused(
    session: Session, feed: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(SessionError, match=message):
        session.run(feed)


def test_a_provider_that_is_missing_is_named_and_not_replaced() -> None:
    with pytest.raises(SessionError, match=r"with NoSuchProvider, got .*CPUExecutionProvider"):
        OnnxRuntimeSession(b"", providers=["NoSuchProvider", "CPUExecutionProvider"])


@pytest.mark.parametrize("name", ["net.safetensors", "net.CKPT", "net.onnx", "net.pth.tar", "net"])
@pytest.mark.parametrize(
    "start", [b"PK\x03\x04", b"\x80\x02\x8a\x0a", b"\x40" + bytes(7) + b'{"w":'], ids=str
)
def test_a_checkpoint_is_no_model(start: bytes, name: str, tmp_path: Path) -> None:
    """Its content tells."""
    (tmp_path / name).write_bytes(start + b"\x07" * 8)
    with pytest.raises(EngineError, match=rf"{name} is a checkpoint, not an ONNX model; ex"):
        open_session(tmp_path / name)


@pytest.mark.parametrize("backend", ON_CPU)
def test_files_that_are_no_model_are_refused(backend: str, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(EngineError, match=r"broken.onnx is not a complete ONNX model"):
        open_session(tmp_path / "broken.onnx", backend=backend)
    with pytest.raises(EngineError, match=r"missing.onnx cannot be read: No such file"):
        open_session(tmp_path / "missing.onnx", backend=backend)
    with pytest.raises(EngineError, match="the model is not a complete ONNX model"):
        open_session(b"no model", backend=backend)


@pytest.mark.parametrize("backend", [*ON_CPU, "cuda", "tensorrt", "auto"])
def test_no_backend_sees_a_byte_of_what_is_refused(
    backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Weights at an address in memory crash OpenVINO, or read the process; hence in this order."""
    location = b"*/_ORT_MEM_ADDR_/*"
    external = b"j" + bytes([len(location) + 12]) + b"\n\x08location\x12"
    external += bytes([len(location)]) + location
    tensor = b"*" + bytes([len(external)]) + external
    hostile = MODEL + b":" + bytes([len(tensor)]) + tensor
    (tmp_path / "memory.onnx").write_bytes(hostile)
    for name in ("onnxruntime.InferenceSession", "openvino.Core.read_model"):
        if importlib.util.find_spec(name.split(".")[0]):
            monkeypatch.setattr(name, lambda *_, **__: pytest.fail("a backend saw it"))
    if backend in ("cuda", "tensorrt"):
        providers = ["CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)
    for model in (tmp_path / "memory.onnx", hostile):
        with pytest.raises(EngineError, match=r"in another file, \*/_ORT_MEM_ADDR_/\*"):
            open_session(model, backend=backend)


def test_onnx_runtime_takes_nothing_but_onnx() -> None:
    """What has the mark of its own format, a second one with less checks, is read as ONNX too."""
    name = b"ORTM" + bytes(4)
    marked = MODEL[:2] + b"\x12" + bytes([len(name)]) + name + MODEL[2:]
    assert MODEL[0] == 8 and marked[4:8] == b"ORTM"
    lr = np.random.default_rng(0).uniform(0, 255, (1, 3, 9, 12)).astype(np.float32)
    expected = open_session(MODEL).run({"lr": lr})["sr"]
    np.testing.assert_array_equal(open_session(marked).run({"lr": lr})["sr"], expected)
