from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from _support.networks import random_edsr
from adadm.export import load_checkpoint, save_checkpoint
from adadm.export.checkpoint import never_updated
from adadm.export.networks import EDSR
from adadm.runtime.errors import CheckpointError

State = dict[str, Any]


def state_of(upscale: int = 2, blocks: int = 3, features: int = 4) -> State:
    return dict(EDSR(upscale, blocks, features).state_dict())


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A file of tensors alone."""
    torch.save(state_of(), tmp_path / "edsr.pt")
    return tmp_path / "edsr.pt"


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize(("blocks", "features"), [(1, 4), (3, 6), (12, 2)])
def test_reads_the_size_from_the_tensors(
    tmp_path: Path, upscale: int, blocks: int, features: int
) -> None:
    torch.save(state_of(upscale, blocks, features), tmp_path / "edsr.pt")
    network = load_checkpoint(tmp_path / "edsr.pt").network
    expected = {"upscale": upscale, "blocks": blocks, "features": features}
    assert expected.items() <= network.hyperparameters.items()
    assert not network.training


def test_a_template_value_is_a_guess_and_a_flag_is_not(bare: Path) -> None:
    assert load_checkpoint(bare).guesses == {"res_scale": 0.1, "rgb_range": 255}
    given = load_checkpoint(bare, res_scale=1.0)
    assert given.guesses == {"rgb_range": 255}
    assert "GUESSED" in str(given.hyperparameters["rgb_range"])
    assert "command line" in str(given.hyperparameters["res_scale"])
    assert given.network.hyperparameters["res_scale"] == 1


def test_our_file_carries_its_hyperparameters_and_computes_the_same(tmp_path: Path) -> None:
    network = random_edsr(3, 2, 4, res_scale=0.3, rgb_range=1.0)
    save_checkpoint(tmp_path / "edsr.safetensors", network, {"training": {"steps": 5}})
    loaded = load_checkpoint(tmp_path / "edsr.safetensors")
    assert loaded.network.hyperparameters == network.hyperparameters
    assert loaded.guesses == {}
    assert loaded.hyperparameters["res_scale"].source == "file"
    lr = torch.rand(1, 3, 9, 7)
    with torch.inference_mode():
        assert torch.equal(loaded.network(lr), network(lr))
    overruled = load_checkpoint(tmp_path / "edsr.safetensors", res_scale=0.7)
    assert overruled.network.hyperparameters["res_scale"] == 0.7


def without(key: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if k != key}


def changed(key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], State]:
    return lambda state: {**state, key: change(state[key].clone())}


def plain_edsr(state: State) -> State:
    """The keys of EDSR without AdaDM."""
    bodies = {"conv1": "body.0", "conv2": "body.2"}
    plain = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "body" and len(parts) == 4:
            if parts[2] in bodies:
                plain[f"body.{parts[1]}.{bodies[parts[2]]}.{parts[3]}"] = value
        else:
            plain[key] = value
    return plain


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor[0] = float("nan")
    return tensor


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (plain_edsr, r"missing \(42\): body.0.conv1.bias.*unexpected \(12\): body.0.body.0.bias"),
        (without("body.1.phi.bias"), r"missing \(1\): body.1.phi.bias\n.*unexpected \(0\): none"),
        (without("tail.1.bias"), r"missing \(1\): tail.1.bias"),
        (lambda s: {**s, "extra.weight": torch.ones(1)}, r"unexpected \(1\): extra.weight"),
        (
            changed("body.0.conv1.weight", lambda t: t[:, :2]),
            r"body.0.conv1.weight: expected shape \(4, 4, 3, 3\), got \(4, 2, 3, 3\)",
        ),
        (
            changed("head.0.weight", lambda t: t[:, :1]),
            r"head.0.weight: expected shape \(n, 3, 3, 3\), got \(4, 1, 3, 3\)",
        ),
        (
            changed("tail.0.0.weight", lambda t: t[:8]),
            r"tail's last convolution .*, got the shapes \(8, 4, 3, 3\)",
        ),
        (changed("body.2.conv2.bias", with_nan), r"body.2.conv2.bias has NaN"),
        (
            changed("body.1.norm2.running_var", lambda t: t - t[0] - 0.5),
            "running variances above 0, got -0.5",
        ),
        (
            changed("body.1.norm1.running_var", lambda t: t * 0),
            "norm1.running_var: expected .* above 0, got 0",
        ),
        (
            lambda s: {"conv.weight": torch.ones(3)},
            "expected tensors of nlsn, edsr, rdn with AdaDM",
        ),
        (
            changed("tail.0.0.weight", lambda t: t.flatten()),
            r"tail's last convolution .*, got the shapes \(576,\)",
        ),
        (lambda s: {}, "expected the tensors of a state dict"),
        (lambda s: {"epoch": 3, "lr": 0.1}, r"expected the tensors .*, got epoch, lr"),
        (lambda s: [1, 2], r"expected the tensors .*, got a list"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, change: Callable[[State], Any], message: str
) -> None:
    torch.save(change(state_of()), tmp_path / "edsr.pt")
    with pytest.raises(CheckpointError, match=rf"(?s){message}"):
        load_checkpoint(tmp_path / "edsr.pt")


class Whole(torch.nn.Module):
    """A module saved whole, which wants to run code on loading."""


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_and_empty_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"edsr{suffix}"
    if suffix == ".pt":
        torch.save(state_of(), path)
    else:
        save_checkpoint(path, random_edsr(2, 1, 4))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        load_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="is empty"):
        load_checkpoint(path)


def test_a_file_that_wants_code_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(Whole(), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match=r"would run code .*Whole"):
        load_checkpoint(tmp_path / "whole.pt")
    (tmp_path / "pickled.pt").write_bytes(pickle.dumps({"a": Path("x")}))
    with pytest.raises(CheckpointError, match=r"PosixPath|truncated, or not a PyTorch"):
        load_checkpoint(tmp_path / "pickled.pt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("", None, "got the folder"),
        ("missing.pt", None, "no such file"),
        ("text.pt", "no checkpoint at all", "not a PyTorch checkpoint"),
    ],
)
def test_other_paths_are_refused(
    name: str, content: str | None, message: str, tmp_path: Path
) -> None:
    if content:
        (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rgb_range": 0.0}, "rgb_range: expected a number from 1e-06 to 1e.06, got 0"),
        ({"res_scale": float("nan")}, "res_scale: expected a finite number below .*, got nan"),
        ({"res_sclae": 1.0}, "expected hyper-parameters among .*, got res_sclae"),
    ],
)
def test_hyperparameters_that_cannot_be_are_refused(
    given: dict[str, Any], message: str, bare: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(bare, **given)


def test_the_metadata_of_another_network_is_refused(tmp_path: Path) -> None:
    network = random_edsr(2, 1, 4)
    save_checkpoint(tmp_path / "edsr.safetensors", network, {"architecture": "rdn"})
    with pytest.raises(CheckpointError, match=r"expected tensors of rdn, .* got those of edsr"):
        load_checkpoint(tmp_path / "edsr.safetensors")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        '{"hyperparameters": {"res_scale": null}}',
        '{"hyperparameters": {"res_scale": "1e400"}}',
        '{"hyperparameters": {"res_scale": 1' + "0" * 400 + "}}",
        '{"architecture": 7}',
        '{"limits": [1]}',
        '{"limits": {"body.0.phi": "1"}}',
        "[" * 2000 + "]" * 2000,
    ],
    ids=lambda text: text[:50],
)
def test_broken_metadata_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "edsr.safetensors"
    safetensors.torch.save_file(state_of(), path, metadata={"adadm": text})
    with pytest.raises(CheckpointError, match="in its metadata"):
        load_checkpoint(path)


def test_a_safetensors_file_without_tensors_is_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(CheckpointError, match=r"expected the tensors .*, got none"):
        load_checkpoint(tmp_path / "empty.safetensors")


def test_half_precision_weights_are_widened(tmp_path: Path) -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in state_of().items()}
    torch.save(state, tmp_path / "half.pt")
    assert next(load_checkpoint(tmp_path / "half.pt").network.parameters()).dtype == torch.float32


@pytest.mark.parametrize("new", [[], ["body.1.norm2"], ["body.0.norm1", "body.2.norm1"]])
def test_normalizations_that_were_never_updated_are_named(
    new: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = random_edsr(2)
    for name in new:
        norm = network.get_submodule(name)
        assert isinstance(norm, nn.BatchNorm2d)
        norm.reset_running_stats()
    save_checkpoint(tmp_path / "edsr.safetensors", network)
    assert never_updated(load_checkpoint(tmp_path / "edsr.safetensors").network) == new
    assert [record.levelname for record in caplog.records] == ["WARNING"] * bool(new)
    assert all(f"{', '.join(new)}. The network" in message for message in caplog.messages)
