"""Weight normalization is folded to the bits that PyTorch computes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from _support.networks import random_edsr
from adadm.export import load_checkpoint
from adadm.export.weights.weight_norm import fold_weight_norm
from adadm.runtime.errors import CheckpointError

Norm = Callable[[nn.Module], nn.Module]


def old(dim: int = 0) -> Norm:
    def apply(module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return nn.utils.weight_norm(module, dim=dim)

    return apply


def new(dim: int = 0) -> Norm:
    return lambda module: parametrizations.weight_norm(module, dim=dim)


FORMS = {"old": old(), "new": new(), "old 1": old(1), "new 1": new(1), "old whole": old(-1),
         "new whole": new(-1)}  # fmt: skip
MODULES: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: nn.Conv2d(3, 8, 3), (1, 3, 4, 4)),
    (lambda: nn.Conv2d(8, 1, 1), (1, 8, 4, 4)),
    (lambda: nn.Conv2d(1, 1, 1), (1, 1, 4, 4)),
    (lambda: nn.Linear(5, 7), (1, 5)),
    (lambda: nn.ConvTranspose2d(4, 6, 2), (1, 4, 4, 4)),
]
"""A module, and the shape of an input."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("make", "shape"), MODULES)
@pytest.mark.parametrize("norm", FORMS.values(), ids=FORMS.keys())
def test_the_weight_is_pytorchs(
    norm: Norm, make: Callable[[], nn.Module], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(1)
    module = norm(make()).to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(torch.rand_like(parameter) * 3 - 1)  # g is no longer the norm of v
        module(torch.ones(shape, dtype=dtype))  # computes the weight
    state = {f"a.b.{key}": value for key, value in module.state_dict().items()}
    folded, pairs = fold_weight_norm({**state, "other_g": torch.ones(1), "other_v": torch.ones(1)})
    assert folded.keys() == {"a.b.weight", "a.b.bias", "other_g", "other_v"}
    assert isinstance(weight := module.weight, torch.Tensor)
    assert torch.equal(folded["a.b.weight"], weight)
    assert pairs.keys() == {"a.b.weight"} and set(pairs["a.b.weight"]) == state.keys() - {
        "a.b.bias"
    }


@pytest.mark.parametrize("norm", [old(), new()], ids=["old", "new"])
def test_a_network_with_weight_norm_loads_as_without(norm: Norm, tmp_path: Path) -> None:
    network = random_edsr(2)
    for name, module in list(network.named_modules()):
        if type(module) is nn.Conv2d and name != "head.0":
            norm(module)
    torch.save({"model": network.state_dict()}, tmp_path / "it.pt")
    checkpoint = load_checkpoint(tmp_path / "it.pt", limit="off")
    assert checkpoint.weights.weight_norms == 3 * 2 + 1 + 2
    assert (checkpoint.weights.dropped, checkpoint.weights.key) == ({}, "model")
    lr = torch.rand(1, 3, 9, 8) * 255
    with torch.inference_mode():
        assert torch.equal(network(lr), checkpoint.network(lr))


@pytest.mark.parametrize(
    "norm", [nn.utils.spectral_norm, parametrizations.spectral_norm, parametrizations.orthogonal]
)
def test_another_parametrization_is_named_with_its_remedy(norm: Norm, tmp_path: Path) -> None:
    network = random_edsr(2)
    norm(network.get_submodule("body.1.conv1"))
    torch.save(network.state_dict(), tmp_path / "it.pt")
    with pytest.raises(CheckpointError, match=r"parametrized.*remove_parametrizations"):
        load_checkpoint(tmp_path / "it.pt")


@pytest.mark.parametrize(
    ("g", "v"),
    [
        (torch.ones(3, 1, 1, 1), torch.ones(4, 2, 3, 3)),
        (torch.ones(4, 1), torch.ones(4, 2, 3, 3)),
        (torch.ones(4, 2, 1, 1), torch.ones(4, 2, 3, 3)),
        (torch.ones(1), torch.ones(())),
        (torch.ones(4, 1).int(), torch.ones(4, 3)),
    ],
)
def test_what_is_only_named_like_a_pair_is_left_alone(g: torch.Tensor, v: torch.Tensor) -> None:
    state = {"weight_g": g, "weight_v": v, "a.weight_v": v}
    assert fold_weight_norm(state) == (state, {})
