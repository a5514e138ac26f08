"""NLSN: its hash codes, its smallest size, and what TensorRT makes of its sort."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from _support.exports import exported
from _support.networks import make_non_neutral, random_network
from _support.parity import assert_parity, photograph_like, run_both
from _support.profiles import built
from _support.slow import slow_unless
from adadm.export import Options, export_onnx, load_checkpoint, save_checkpoint
from adadm.export.networks import NLSN
from adadm.export.proof.parity import check_parity
from adadm.export.proof.pytorch import attention_rounds, run_network
from adadm.runtime.engines.tensorrt_api import Profile
from adadm.runtime.errors import EngineError, ImageError, ParityError, SessionError
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

SIZES = [(1, 12, 12), (1, 1, 144), (1, 13, 17), (2, 24, 30), (1, 61, 67), (1, 144, 144)]
SIZES += [(1, 256, 256)]


@pytest.mark.parametrize(
    ("batch", "height", "width"), slow_unless(lambda _, height, width: height < 100, SIZES)
)
def test_with_the_same_codes_every_size_agrees(batch: int, height: int, width: int) -> None:
    network, model, _ = exported("nlsn", 2, Options())
    lr = photograph_like((batch, height, width), white=1)
    assert_parity(*run_both(network, model, lr), "float32")


def test_add_mean_is_folded_and_sub_mean_is_not() -> None:
    _, model, _ = exported("nlsn", 2, Options())
    names = {node.name for node in model.graph.node}
    assert "sub_mean" in names
    assert "add_mean" not in names


def test_below_the_chunk_size_is_refused_everywhere() -> None:
    network, model, _ = exported("nlsn", 2, Options())
    lr = photograph_like((1, 11, 13), white=1)
    with pytest.raises(ImageError, match=r"expected at least 144 px .*, got 11x13 = 143"):
        run_network(network, lr)
    with pytest.raises(SessionError, match="expected at least 144 px in all, got 11x13"):
        OnnxRuntimeSession(model.SerializeToString()).run({"lr": lr})


def test_the_seed_is_in_the_model_and_matters(tmp_path: Path) -> None:
    network = random_network("nlsn", 2)
    torch.save(network.state_dict(), tmp_path / "nlsn.pt")
    lr = photograph_like((1, 40, 40), white=1)
    same, same_again, other = (
        run_network(load_checkpoint(tmp_path / "nlsn.pt", seed=seed, n_hashes=2).network, lr)
        for seed in (5, 5, 6)
    )
    assert np.array_equal(same, same_again)
    assert not np.array_equal(same, other)
    loaded = load_checkpoint(tmp_path / "nlsn.pt")
    assert loaded.guesses == {"res_scale": 0.1, "chunk_size": 144, "n_hashes": 4}
    assert "our choice" in str(loaded.hyperparameters["seed"])
    assert loaded.network.rgb_range == 1


def test_other_rotations_are_no_rounding() -> None:
    network, model, _ = exported("nlsn", 2, Options())
    for tensor in model.graph.initializer:
        if tensor.name.endswith("rotations"):
            turned = np.ascontiguousarray(numpy_helper.to_array(tensor)[:, ::-1])
            tensor.CopyFrom(numpy_helper.from_array(turned, tensor.name))
    with pytest.raises(ParityError, match=r"hash codes of body\.0\.rounds\.0 differ"):
        check_parity(network, model)


def test_a_code_flipped_by_rounding_refuses_nothing() -> None:
    """Two axes that differ by less than a rounding: any pixel's code may fall either way."""
    original, model, _ = exported("nlsn", 2, Options())
    network = copy.deepcopy(original)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, module in attention_rounds(network).items():
        module.rotations[:, 1] = module.rotations[:, 0]
        nearly = module.rotations.numpy().copy()
        nearly[:, 1] *= np.float32(1 + 1e-6)
        tensor = numpy_helper.from_array(nearly, f"{name}.rotations")
        initializers[tensor.name].CopyFrom(tensor)
    comparisons, hashing = check_parity(network, model)
    assert sum(result.differing for result in hashing) > 100
    assert len(comparisons) == len(hashing) == 11


@pytest.mark.filterwarnings("ignore")
def test_tensorrt_refuses_the_sort_as_the_exporter_writes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = NLSN(2, blocks=1, features=8, n_hashes=1).eval()
    with monkeypatch.context() as patch:
        patch.setattr(torch.onnx, "is_in_onnx_export", lambda: False)
        # The published code's sort is not stable; the exporter knows no other.
        patch.setattr(torch.Tensor, "argsort", lambda codes, dim, **_: codes.sort(dim).indices)
        program = torch.onnx.export(
            network, (torch.zeros(1, 3, 64, 64),), dynamo=True, opset_version=18, verbose=False
        )
    assert program is not None
    naive = program.model_proto
    assert "TopK" in {node.op_type for node in naive.graph.node}
    with pytest.raises(EngineError, match="K exceeds the maximum value allowed"):
        built(naive, None)


@pytest.mark.slow
def test_tensorrt_builds_up_to_256_pixels_a_side() -> None:
    _, model, _ = exported("nlsn", 2, Options())
    profile = {"lr": Profile((1, 3, 12, 12), (1, 3, 128, 128), (1, 3, 256, 256))}
    assert built(model, profile).plan


@pytest.mark.slow
def test_a_large_chunk_exports(tmp_path: Path) -> None:
    """The cases of the parity check are at least as large as the network needs."""
    network = NLSN(2, blocks=1, features=4, chunk_size=600, n_hashes=1)
    make_non_neutral(network, seed=0, size=26)
    save_checkpoint(tmp_path / "nlsn.safetensors", network)
    export = export_onnx(load_checkpoint(tmp_path / "nlsn.safetensors"))
    assert min(case.shape[2] * case.shape[3] for case in export.parity) >= 4 * 600
