"""States that a training goes on from."""

from __future__ import annotations

import functools
import io
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from adadm.export.networks import EDSR
from fuzz.mutations import mutate_zip
from fuzz.reader import Fault, Files, Reader
from fuzz.tensors import CHANGES, checksums, flip_entry, saved
from training.state import Training

_NAME = "x.resume"
_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 10**18, 10**500, 1e308, float("nan"), float("inf"), "", "edsr", b"x"),
    *([], {}, [[]], (1, 2), torch.zeros(3), torch.ones(2, 2, dtype=torch.uint8)),
)


def _training(seed: int) -> Training:
    torch.manual_seed(seed)
    network = EDSR(2, 1, 4)
    optimizer = torch.optim.Adam(network.parameters(), lr=torch.tensor(0.01), fused=True)
    settings: dict[str, float | str] = {"arch": "edsr", "batch": 2, "learning_rate": 0.01}
    run = Training(settings, network, optimizer, torch.Generator())
    run.generator.manual_seed(seed)
    run.step, run.elapsed_s = seed, 1.5
    _step(run)
    return run


def _step(run: Training) -> None:
    for parameter in run.network.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    run.optimizer.step()


def _tensors(run: Training) -> list[torch.Tensor]:
    adam = [value for state in run.optimizer.state.values() for value in state.values()]
    return [*run.network.state_dict().values(), *adam, run.generator.get_state()]


@functools.cache
def _expected() -> list[torch.Tensor]:
    return _tensors(_training(7))


def _seeds() -> Mapping[str, Files]:
    with tempfile.TemporaryDirectory() as folder:
        _training(7).save(Path(folder) / _NAME)
        return {"saved": {_NAME: (Path(folder) / _NAME).read_bytes()}}


def _mutate(files: Files, rng: random.Random) -> Files:
    kind, data = rng.randrange(4), files[_NAME]
    if kind == 0:
        return {_NAME: flip_entry(data, rng)}
    return {_NAME: mutate_zip(data, rng) if kind == 1 else _changed_content(data, rng)}


def _changed_content(data: bytes, rng: random.Random) -> bytes:
    content = torch.load(io.BytesIO(data), weights_only=True)
    for _ in range(rng.choice((1, 1, 2))):
        holder, key = content, rng.choice(list(content))
        while isinstance(holder[key], dict) and holder[key] and rng.random() < 0.9:
            holder = holder[key]
            key = rng.choice(list(holder))
        kind = rng.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            holder[rng.choice((99, -1, "x", (1,), None, True))] = holder[key]
        elif kind < 4 and isinstance(holder[key], torch.Tensor):
            try:
                holder[key] = rng.choice(CHANGES)(holder[key])
            except Exception:  # noqa: BLE001 (there is no such tensor)
                holder[key] = None
        else:
            holder[key] = rng.choice(_VALUES)
    try:
        return saved(content)
    except Exception:  # noqa: BLE001 (what it cannot write)
        return mutate_zip(data, rng)


def _read(folder: Path, seed: Files) -> None:
    run = _training(0)
    run.restore(folder / _NAME)
    if not all(tensor.isfinite().all() for tensor in _tensors(run)):
        raise Fault("a tensor is not finite")
    if checksums((folder / _NAME).read_bytes()) == checksums(seed[_NAME]) and not (
        all(map(torch.equal, _tensors(run), _expected())) and run.step == 7
    ):
        raise Fault("the state was changed, and the checksums were not")
    _step(run)
    run.save(folder / "again.resume")


READER = Reader(_seeds, _mutate, _read)
