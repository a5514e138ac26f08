"""The state that a run goes on from: whole and as it was saved, or one message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from _support.networks import random_edsr
from adadm.runtime.errors import CheckpointError
from training.state import Training


def training(seed: int = 0, **settings: float | str) -> Training:
    """A run that has done two steps."""
    network = random_edsr(2, 1, 4, seed).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=torch.tensor(0.01), fused=True)
    for _ in range(2):
        network(torch.rand(1, 3, 8, 8) * 255).mean().backward()
        optimizer.step()
    run = Training({"arch": "edsr", "batch": 2, **settings}, network, optimizer, torch.Generator())
    run.generator.manual_seed(seed)
    run.step, run.elapsed_s = 2 + seed, 1.5
    return run


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    training(3).save(tmp_path / "x.resume")
    return tmp_path / "x.resume"


def tensors(run: Training) -> list[torch.Tensor]:
    adam = [value for state in run.optimizer.state.values() for value in state.values()]
    return [*run.network.state_dict().values(), *adam, run.generator.get_state()]


def test_it_is_restored_whole(saved: Path) -> None:
    run, expected = training(0), training(3)
    rate = run.optimizer.param_groups[0]["lr"]
    assert not all(map(torch.equal, tensors(run), tensors(expected)))
    run.restore(saved)
    assert all(map(torch.equal, tensors(run), tensors(expected)))
    assert (run.step, run.elapsed_s) == (5, 1.5)
    assert run.optimizer.param_groups[0]["lr"] is rate  # what each step fills


class Code:
    """Runs code where an unpickler lets it."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('it ran')",)


def edited(**changes: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        torch.save({**content, **changes}, path)

    return edit


def in_network(change: Callable[[torch.Tensor], Any]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        key = "head.0.weight"
        content["network"][key] = change(content["network"][key])
        torch.save(content, path)

    return edit


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(training(3).network.state_dict()["head.0.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(content)


OTHERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "x.resume is damaged"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:5000]), "x.resume is damaged"),
    "text": (lambda path: path.write_text("[1, 2]"), "x.resume is damaged"),
    "a bit": (flipped, r"the CRC-32 of archive/data/0 is wrong.*; or remove the file"),
    "code": (edited(more=Code()), r"would run code on loading \(exec\)"),
    "a list": (lambda path: torch.save([1], path), r"expected a state of training, got \[1\]"),
    "nothing": (lambda path: torch.save({}, path), "expected a state of training, got None"),
    "no settings": (edited(settings=None), "expected a state of training, got None"),
    "more settings": (edited(settings={"arch": "edsr", "batch": 2, "x": 1}), "settings has other"),
    "other settings": (edited(settings={"arch": torch.ones(3)}), "expected arch edsr, got tensor"),
    "no network": (edited(network={}), "state, network has other names"),
    "no tensor": (in_network(lambda t: None), "network, head.0.weight is another tensor"),
    "a shape": (in_network(lambda t: t[:1]), "network, head.0.weight is another tensor"),
    "a type": (in_network(lambda t: t.half()), "network, head.0.weight is another tensor"),
    "sparse": (in_network(lambda t: t.to_sparse()), "network, head.0.weight is another tensor"),
    "NaN": (in_network(lambda t: t * float("nan")), "network, head.0.weight is not finite"),
    "no optimizer": (edited(optimizer=3), "expected a state of training, got 3"),
    "a parameter": (edited(optimizer={99: {}}), "state, optimizer has other names"),
    "a sum": (edited(optimizer={0: {"step": 1}}), "state, optimizer, 0 has other names"),
    "a generator": (edited(generator=torch.zeros(5, dtype=torch.uint8)), "generator is another"),
    "a step": (edited(step="7"), "state, step: expected a int"),
    "a time": (edited(elapsed_s=float("nan")), "state, elapsed_s: expected a float"),
}


@pytest.mark.parametrize(("edit", "message"), OTHERS.values(), ids=OTHERS.keys())
def test_another_file_is_refused_and_changes_nothing(
    edit: Callable[[Path], Any], message: str, saved: Path
) -> None:
    edit(saved)
    run, before = training(0), tensors(training(0))
    with pytest.raises(CheckpointError, match=message):
        run.restore(saved)
    assert all(map(torch.equal, tensors(run), before))
    assert run.step == 2
