"""The bundled checkpoints and models: the same network, and good pictures."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from _support.parity import assert_parity
from _support.slow import slow_unless
from adadm.export import Export, export_onnx, load_checkpoint
from adadm.export.proof.pytorch import run_network
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.images.arrays import (
    batch_from_image,
    crop_to_multiple,
    enlarge,
    image_from_batch,
    reduce,
)
from adadm.runtime.images.metrics import psnr_y
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

ROOT = Path(__file__).resolve().parents[2]
UPSCALES = slow_unless(lambda upscale: upscale == 2, (2, 3, 4))
LARGEST_ERROR = 1e-3
"""In grey levels of 255."""
# Whole photographs of scikit-image: mean gain over bicubic interpolation, dB PSNR-Y.
LEAST_GAIN_DB = {2: 2.0, 3: 1.4, 4: 1.0}


def checkpoint_path(upscale: int) -> Path:
    return ROOT / "export" / "checkpoints" / f"edsr_adadm_x{upscale}.safetensors"


def model_path(upscale: int) -> Path:
    return ROOT / "runtime" / "models" / f"edsr_adadm_x{upscale}.onnx"


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    """All but who wrote it, and what export measures, which differs a little each time."""
    free = ("adadm.version", "adadm.memory", "adadm.halo_errors")
    return {entry.key: entry.value for entry in model.metadata_props if entry.key not in free}


@functools.cache
def exported(upscale: int) -> Export:
    return export_onnx(load_checkpoint(checkpoint_path(upscale)))


@pytest.mark.parametrize("upscale", UPSCALES)
def test_the_bundled_model_is_the_export_of_the_bundled_checkpoint(upscale: int) -> None:
    bundled, fresh = onnx.load(model_path(upscale)), exported(upscale).model
    assert list(bundled.graph.node) == list(fresh.graph.node)
    assert list(bundled.functions) == list(fresh.functions)
    assert _metadata(bundled) == _metadata(fresh)
    ours, theirs = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for model in (bundled, fresh)
    )
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_allclose(values, theirs[name], rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("upscale", UPSCALES)
def test_every_normalization_is_folded_and_parity_is_tight(upscale: int) -> None:
    export = exported(upscale)
    assert all(decision.result for decision in export.decisions), export.decisions
    assert len(export.decisions) == 16
    assert max(case.largest_error for case in export.parity) <= LARGEST_ERROR


@pytest.mark.parametrize("upscale", slow_unless(lambda upscale: upscale == 4, (2, 3, 4)))
def test_whole_photographs_agree_with_pytorch_and_beat_bicubic(upscale: int) -> None:
    network = load_checkpoint(checkpoint_path(upscale)).network
    session = OnnxRuntimeSession(model_path(upscale))
    gains = []
    for name, photo in photographs().items():
        hr = crop_to_multiple(photo, upscale)
        lr = reduce(hr, upscale)
        batch = batch_from_image(lr, network.rgb_range)
        found = session.run({"lr": batch})["sr"]
        expected = run_network(network, batch)
        assert assert_parity(found, expected, "float32", name).largest_error <= LARGEST_ERROR
        sr = image_from_batch(found, network.rgb_range)
        gains.append(psnr_y(sr, hr, upscale) - psnr_y(enlarge(lr, upscale), hr, upscale))
        assert gains[-1] > 0.3, name
    assert np.mean(gains) > LEAST_GAIN_DB[upscale]
