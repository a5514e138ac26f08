"""The operator's body against the module in PyTorch, which sorts with torch.sort."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

from _support.graphs import operator
from adadm.export.networks.sparse_attention import AttentionRound
from adadm.export.operators.sparse_attention import ATTENTION_ROUND
from adadm.runtime.backends import open_session
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

EMBEDDING, CHANNELS = 5, 11
Array = npt.NDArray[np.float32]


def model(chunk_size: int, opset: int = 19, dtype: str = "float") -> onnx.ModelProto:
    inputs = {
        "match": f"{dtype}[N,{EMBEDDING},H,W]",
        "values": f"{dtype}[N,{CHANNELS},H,W]",
        "rotations": f"float[{EMBEDDING},64]",
    }
    outputs = {
        "attended": f"{dtype}[N,{CHANNELS},H,W]",
        "weight": f"{dtype}[N,1,H,W]",
        "codes": "int64[N,L]",
    }
    return operator(ATTENTION_ROUND, inputs, outputs, opset, chunk_size=chunk_size)


def attention_round(chunk_size: int) -> AttentionRound:
    module = AttentionRound(EMBEDDING, chunk_size, torch.Generator().manual_seed(7))
    module.eval()
    return module


def inputs(shape: tuple[int, int, int], seed: int = 0) -> tuple[Array, Array]:
    batch, height, width = shape
    rng = np.random.default_rng(seed)
    match = rng.normal(0.5, 2, (batch, EMBEDDING, height, width)).astype(np.float32)
    values = rng.normal(-1, 3, (batch, CHANNELS, height, width)).astype(np.float32)
    return match, values


def expected(module: AttentionRound, match: Array, values: Array, codes: Array) -> list[Array]:
    with torch.inference_mode():
        results = module(*(torch.from_numpy(a) for a in (match, values, codes)))
    return [result.numpy() for result in results]


@pytest.mark.parametrize("opset", [17, 18, 20])
@pytest.mark.parametrize(
    ("shape", "chunk_size"),
    [
        ((1, 12, 12), 144),  # one chunk, its own neighbour on both sides
        ((2, 1, 145), 144),  # the second chunk is nearly all filling
        ((2, 24, 24), 144),  # divisible
        ((3, 23, 31), 144),
        ((2, 9, 10), 16),
        ((1, 40, 50), 10),  # more chunks than buckets
    ],
)
def test_agrees_with_pytorch(shape: tuple[int, int, int], chunk_size: int, opset: int) -> None:
    module, (match, values) = attention_round(chunk_size), inputs(shape)
    session = OnnxRuntimeSession(model(chunk_size, opset).SerializeToString())
    feed = {"match": match, "values": values, "rotations": module.rotations.numpy()}
    found = session.run(feed)
    with torch.inference_mode():
        codes = module.project(torch.from_numpy(match)).argmax(dim=-1).numpy()
    assert (codes != found["codes"]).mean() < 1e-3
    attended, weight = expected(module, match, values, found["codes"])
    np.testing.assert_allclose(
        found["attended"], attended, rtol=0, atol=1e-5 * np.abs(values).max()
    )
    np.testing.assert_allclose(found["weight"], weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_equal_pixels_keep_their_order(backend: str) -> None:
    """The sort is stable: of one colour, each chunk is a run of neighbours."""
    module = attention_round(16)
    match, values = inputs((1, 8, 8))
    match[:] = match[:, :, :1, :1]
    feed = {"match": match, "values": values, "rotations": module.rotations.numpy()}
    found = open_session(model(16).SerializeToString(), backend).run(feed)
    rows = values.reshape(CHANNELS, 4, 16).mean(axis=2)
    means = (rows + np.roll(rows, 1, axis=1) + np.roll(rows, -1, axis=1)) / 3
    np.testing.assert_allclose(
        found["attended"].reshape(CHANNELS, 4, 16), means[..., None].repeat(16, 2), atol=1e-5
    )


def test_half_precision_is_summed_in_single() -> None:
    """Squares of 300 are above 65504, and the place of a pixel above 2048 needs 12 bits."""
    module = attention_round(144)
    match, values = inputs((1, 64, 80))
    match *= 100
    half = {"match": match.astype(np.float16), "values": values.astype(np.float16)}
    proto = model(144, dtype="float16")
    found = OnnxRuntimeSession(proto.SerializeToString()).run(
        {**half, "rotations": module.rotations.numpy()}
    )
    single = {name: array.astype(np.float32) for name, array in half.items()}
    attended, _ = expected(module, single["match"], single["values"], found["codes"])
    assert found["attended"].dtype == np.float16
    np.testing.assert_allclose(found["attended"], attended, rtol=2e-3, atol=2e-3)


def test_training_draws_a_new_rotation_at_every_call() -> None:
    module, (match, _) = attention_round(16), inputs((1, 16, 16))
    image = torch.from_numpy(match)
    assert torch.equal(module.project(image), module.project(image))
    module.train()
    assert not torch.equal(module.project(image), module.project(image))
