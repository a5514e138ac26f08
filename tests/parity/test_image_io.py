"""Models that read and return images: the grey levels of the conversion outside the graph."""

from __future__ import annotations

import numpy as np
import pytest

from _support.exports import exported
from _support.parity import photograph_like
from adadm.export import Options
from adadm.export.proof.parity import check_image_io
from adadm.runtime.images.arrays import batch_from_image, image_from_batch
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession


@pytest.mark.parametrize("static", [None, (2, 19, 26)], ids=["dynamic", "static"])
@pytest.mark.parametrize("architecture", ["edsr", "nlsn"])  # rgb_range 255 and 1
def test_grey_levels_are_those_of_the_host(
    architecture: str, static: tuple[int, int, int] | None
) -> None:
    network, model, _ = exported(architecture, 2, Options(io="uint8", static=static))
    _, reference, _ = exported(architecture, 2, Options(static=static))
    images = photograph_like((2, 19, 26)).transpose(0, 2, 3, 1).round().astype(np.uint8)
    lr = np.concatenate([batch_from_image(image, network.rgb_range) for image in images])
    expected = OnnxRuntimeSession(reference.SerializeToString()).run({"lr": lr})["sr"]
    session = OnnxRuntimeSession(model.SerializeToString())
    (read,), (returned,) = session.inputs, session.outputs
    assert (read.name, read.dtype.name, read.shape[-1]) == ("lr", "uint8", 3)
    assert (returned.name, returned.dtype.name) == ("sr", "uint8")
    found = session.run({"lr": images})["sr"]
    assert found.shape == (2, 38, 52, 3)
    for index in range(2):
        wanted = image_from_batch(expected[index : index + 1], network.rgb_range)
        np.testing.assert_array_equal(found[index], wanted)
    out_of_range = (expected < 0) | (expected > network.rgb_range)
    if architecture == "edsr":
        assert 0.05 < out_of_range.mean() < 0.95  # what is clipped, and what is rounded


@pytest.mark.slow
def test_a_convolution_before_the_scaling_is_not_scaled_itself() -> None:
    """ONNX Runtime would fold the factor into it, and round some grey levels another way."""
    network, model, _ = exported("nlsn", 2, Options(io="uint8", tail="original"))
    _, reference, _ = exported("nlsn", 2, Options(tail="original"))
    check_image_io(network, model, reference)
