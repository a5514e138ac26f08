"""Checkpoints: PyTorch's archives and old files, and safetensors, with tensors of any kind."""

from __future__ import annotations

import functools
import io
import json
import pickle
import random
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from _support.networks import make_non_neutral
from adadm.export.checkpoint import load_checkpoint, network_class, save_checkpoint
from fuzz.mutations import mutate_bytes, mutate_json, mutate_one, mutate_zip
from fuzz.reader import Fault, Files, Reader
from fuzz.tensors import CHANGES, checksums, flip_entry, saved

_SIZES: dict[str, dict[str, float]] = {
    "edsr": {"blocks": 2, "features": 4},
    "rdn": {"blocks": 2, "layers": 2, "growth": 4, "features": 4},
    "nlsn": {"blocks": 1, "features": 4, "chunk_size": 16, "n_hashes": 1},
}
State = dict[str, Any]


def _seeds() -> Mapping[str, Files]:
    seeds: dict[str, Files] = {}
    for name, size in _SIZES.items():
        torch.manual_seed(0)
        network = make_non_neutral(network_class(name)(upscale=2, **size), 0, steps=2, size=12)
        state = {key: value.clone() for key, value in network.state_dict().items()}
        beside = {key: value for key, value in size.items() if key in ("chunk_size", "n_hashes")}
        wrapped = {"params_ema": {f"module.{k}": v for k, v in state.items()}, "args": beside}
        seeds[f"{name}-archive"] = {"it.pt": saved({**wrapped, "epoch": 3})}
        seeds[f"{name}-old"] = {"it.pth": _saved_as_before(wrapped)}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "it.safetensors"
            save_checkpoint(path, network)
            load_checkpoint(path)  # PyTorch makes a folder of its own
            seeds[f"{name}-safetensors"] = {path.name: path.read_bytes()}
    return seeds


class _Pickler(pickle.Pickler):
    """Pickles tensors as PyTorch before 1.6 did; storages are numbered, not named by addresses."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, 2)
        self.storages: dict[int, tuple[str, Any]] = {}

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, torch.storage.TypedStorage):
            return None
        key, _ = self.storages.setdefault(value._cdata, (str(len(self.storages)), value))
        kind = getattr(torch, value.pickle_storage_type())  # type: ignore[no-untyped-call]
        return "storage", kind, key, "cpu", len(value), None


def _saved_as_before(content: object) -> bytes:
    file = io.BytesIO()
    for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "type_sizes": {}}):
        pickle.dump(head, file, 2)
    pickler = _Pickler(file)
    pickler.dump(content)
    pickle.dump([key for key, _ in pickler.storages.values()], file, 2)
    for _, storage in pickler.storages.values():
        file.write(struct.pack("<q", len(storage)) + bytes(storage.untyped().tolist()))
    return file.getvalue()


_KEYS = ("9" * 5000, "1000000000", "30000", "-1", "00", "\u0661", "", ".", "a." * 3000, "\x1b[2J")
_BESIDE: tuple[tuple[str, Any], ...] = (
    *(("rgb_range", value) for value in (0, -1, 1e-320, 1e308, 10**400, float("nan"), "1", True)),
    *(("res_scale", value) for value in (0, 10**18, 1e30, [1.0], None)),
    *(("chunk_size", value) for value in (0, 1, 4096, 10**6, 10**18, 2.5)),
    *(("n_hashes", value) for value in (0, 64, 10**6, 10**15)),
    *(("norm_groups", value) for value in (1, 3, 10**9)),
)


def _changed_tensors(data: bytes, rng: random.Random) -> bytes:
    """Another file of PyTorch, whose tensors, keys or values beside them are changed."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    state = content["params_ema"]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        key = rng.choice(sorted(state))
        kind = rng.randrange(10)
        if kind < 4:
            try:
                state[key] = rng.choice(CHANGES)(state[key])
            except Exception:  # noqa: BLE001 (there is no such tensor)
                state[key] = None
        elif kind < 6:
            words = key.split(".")
            words[rng.randrange(len(words))] = rng.choice(_KEYS)
            state[".".join(words)] = state[key]
        elif kind == 6:
            del state[key]
        elif kind == 7:
            state[key + "_v"] = state.pop(key)
            state[key + "_g"] = rng.choice(CHANGES[:6])(torch.ones(4, 1, 1, 1))
        elif kind == 8:
            name, value = rng.choice(_BESIDE)
            content.setdefault("args", {})[name] = value
        else:
            content[rng.choice(("a", 7, 10**400, (1, 2), b"x", None))] = [state, {"x": state}] * 9
    save = saved if data.startswith(b"PK") else _saved_as_before
    try:
        return save(content)
    except Exception:  # noqa: BLE001 (what it cannot write)
        return mutate_bytes(data, rng)


def _mutate_archive(data: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return flip_entry(data, rng)
    if kind == 1:
        return _changed_tensors(data, rng)
    return mutate_zip(data, rng)


def _mutate_old(data: bytes, rng: random.Random) -> bytes:
    return _changed_tensors(data, rng) if rng.random() < 0.4 else mutate_bytes(data, rng)


def _mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Its bytes, its header, or what its header says of the network, with a right length."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    (length,) = struct.unpack_from("<Q", data)
    header, body = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.4:
        content = json.loads(header)
        notes = mutate_json(content["__metadata__"]["adadm"].encode(), rng)
        content["__metadata__"]["adadm"] = notes.decode("utf-8", "replace")
        header = json.dumps(content).encode("utf-8", "replace")
    else:
        header = mutate_json(header, rng)
    length = rng.choice((len(header),) * 9 + (len(header) + 1, 0, 2**40, 2**63))
    return struct.pack("<Q", length) + header + body


def _mutate(files: Files, rng: random.Random) -> Files:
    return mutate_one(
        files,
        rng,
        {".pt": _mutate_archive, ".pth": _mutate_old, ".safetensors": _mutate_safetensors},
    )


def _read(folder: Path, seed: Files) -> None:
    (name,) = seed
    found = load_checkpoint(folder / name).network.root.state_dict()
    for key, tensor in found.items():
        if tensor.layout is not torch.strided or tensor.is_complex() or tensor.is_quantized:
            raise Fault(f"{key} is no dense real tensor")
        if not tensor.isfinite().all():
            raise Fault(f"{key} is not finite")
    if name == "it.pt" and checksums((folder / name).read_bytes()) == checksums(seed[name]):
        expected = _state_of(seed[name])
        for key, tensor in found.items():
            if not torch.equal(tensor, expected[key]):
                raise Fault(f"{key} was changed, and the checksums were not")


@functools.lru_cache(8)
def _state_of(data: bytes) -> State:
    state = torch.load(io.BytesIO(data), weights_only=True)["params_ema"]
    return {key.removeprefix("module."): value for key, value in state.items()}


READER = Reader(_seeds, _mutate, _read)
