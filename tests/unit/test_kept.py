"""What tests keep: made once, whole, and of these sources alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx_ir as ir
import pytest
import torch
from torch import nn

from _support import kept as module
from _support.kept import kept
from _support.kept_exports import exporting_once
from _support.toy_networks import blocks_of
from adadm.export.networks import EDSR
from adadm.export.networks.blocks import Modulator


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(module, "_KEPT", tmp_path / "kept")
    module._made_of_these_sources.cache_clear()
    yield tmp_path
    module._made_of_these_sources.cache_clear()


def test_it_is_made_once_for_each_key() -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "a").write_text(str(len(made)))

    assert [(kept(make, key) / "a").read_text() for key in (1, 2, 1)] == ["1", "2", "1"]
    assert len(made) == 2


def test_what_fails_is_not_there_and_is_made_again(folder: Path) -> None:
    def fail(place: Path) -> None:
        (place / "a").write_text("half")
        raise OSError("full")

    for _ in range(2):
        with pytest.raises(OSError, match="full"):
            kept(fail)
    assert list(folder.rglob("a")) == []


def test_of_other_sources_it_is_made_anew_and_the_eldest_goes(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sources = tmp_path_factory.mktemp("sources")
    monkeypatch.setattr(module, "_SOURCES", (str(sources),))
    found = []
    for number in range(5):
        (sources / "a.py").write_text(f"{number}")
        module._made_of_these_sources.cache_clear()
        found.append(kept(lambda folder: None))
    assert len(set(found)) == 5
    assert [path.exists() for path in found] == [False, False, True, True, True]


def test_only_an_equal_network_is_not_exported_again() -> None:
    """Whatever of it is another: a weight, a number, its size, a hook, or what nobody can know."""
    exported = []

    def export(root: nn.Module, args: tuple[torch.Tensor, ...], **options: Any) -> SimpleNamespace:
        exported.append(root)
        x = ir.val(f"x{len(exported)}", ir.DataType.FLOAT, args[0].shape)
        graph = ir.Graph([x], [x], nodes=[], opset_imports={"": 18})
        return SimpleNamespace(model=ir.Model(graph, ir_version=10))

    once = exporting_once(export)

    def name_of(change: Callable[[EDSR], object], side: int = 5, **options: object) -> str:
        network = EDSR(2, 1, 4).eval()
        with torch.no_grad():
            for index, tensor in enumerate(network.state_dict().values()):
                tensor.copy_(torch.full_like(tensor, index))
            change(network)
        model = once(network.root, (torch.zeros(1, 3, side, side),), **options).model
        return str(model.graph.inputs[0].name)

    def phi(network: EDSR) -> Modulator:
        return next(m for m in network.modules() if isinstance(m, Modulator))

    assert [name_of(lambda network: None) for _ in range(2)] == ["x1", "x1"]
    changes: list[Callable[[EDSR], object]] = [
        lambda network: phi(network).weight.add_(1e-6),
        lambda network: setattr(phi(network), "limit", 2.0),
        lambda network: setattr(blocks_of(network)[0], "res_scale", 0.2),
        lambda network: network.root.double(),
        lambda network: network.root.train(),
        lambda network: setattr(phi(network), "forward", phi(network).forward),
        lambda network: phi(network).register_forward_pre_hook(lambda module, inputs: None),
    ]
    found = [name_of(change) for change in changes]
    found += [name_of(lambda network: None, side=6), name_of(lambda network: None, opset=17)]
    assert len({"x1", *found}) == 1 + len(found)
    assert [name_of(changes[0]), name_of(lambda network: None, opset=17)] == [found[0], found[-1]]
    assert name_of(changes[-1]) not in found  # nobody knows what a hook does
