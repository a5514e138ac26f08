"""The trained small RDN and NLSN: nothing rests on random weights alone."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from _support.parity import assert_parity, run_both
from _support.profiles import built
from _support.slow import slow_unless
from adadm.export import Export, export_onnx, load_checkpoint
from adadm.export.proof.pytorch import run_network
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.engines.tensorrt_api import Profile
from adadm.runtime.images.arrays import batch_from_image, crop_to_multiple, reduce
from adadm.runtime.images.compare import compare
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

CHECKPOINTS = Path(__file__).resolve().parents[2] / "export" / "checkpoints"
LARGEST_BYTES = 4e6
LEAST_GAIN_DB = 0.5
LEAST_FREE_DB = 60.0

each = pytest.mark.parametrize(
    "architecture", slow_unless(lambda architecture: False, ["rdn", "nlsn"])
)


@functools.cache
def exported(architecture: str) -> Export:
    return export_onnx(load_checkpoint(CHECKPOINTS / f"{architecture}_adadm_x2.safetensors"))


@each
def test_nothing_is_guessed_and_it_beats_bicubic(architecture: str) -> None:
    path = CHECKPOINTS / f"{architecture}_adadm_x2.safetensors"
    assert path.stat().st_size < LARGEST_BYTES
    export = exported(architecture)
    assert export.checkpoint.network.architecture == architecture
    assert export.checkpoint.guesses == {}
    gains = [photo.network_db - photo.bicubic_db for photo in export.accuracy]
    assert np.mean(gains) > LEAST_GAIN_DB, gains


@each
def test_photographs_agree_with_pytorch(architecture: str) -> None:
    """Whole ones at a third of the size, so that minutes are seconds."""
    export = exported(architecture)
    network = export.checkpoint.network
    for name, photo in photographs().items():
        lr = batch_from_image(reduce(crop_to_multiple(photo, 3), 3), network.rgb_range)
        found, expected = run_both(network, export.model, lr)
        assert_parity(found, expected, "float32", name)


@pytest.mark.slow
def test_free_running_nlsn_agrees_with_pytorch() -> None:
    """Each with its own hash codes, from the same rotations."""
    export = exported("nlsn")
    network = export.checkpoint.network
    session = OnnxRuntimeSession(export.model.SerializeToString())
    for name, photo in photographs().items():
        lr = batch_from_image(reduce(crop_to_multiple(photo, 2), 2), network.rgb_range)
        found, expected = session.run({"lr": lr})["sr"], run_network(network, lr)
        result = compare(name, found, expected, border_px=8)
        assert result.psnr_db >= LEAST_FREE_DB, result
    assert len(export.hashing) == 11
    differing = sum(case.differing for case in export.hashing)
    assert differing / sum(case.codes for case in export.hashing) < 1e-4
    assert min(case.free_psnr_db for case in export.hashing) >= LEAST_FREE_DB


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["rdn", "nlsn"])
def test_tensorrt_builds(architecture: str) -> None:
    profile = {"lr": Profile((1, 3, 16, 16), (1, 3, 64, 64), (1, 3, 256, 256))}
    assert built(exported(architecture).model, profile).plan
