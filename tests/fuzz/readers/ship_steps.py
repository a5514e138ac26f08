"""The record of steps of `adadm ship`, and the outputs that it may remove."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path

from adadm.deployment.shipping.steps import Steps
from adadm.runtime.records import write_record
from fuzz.mutations import mutate_json, mutate_one, mutate_value
from fuzz.reader import Fault, Files, Reader, read_files

_OTHERS = {
    "ship/mine.txt": b"mine",
    "ship/models/mine.txt": b"mine too",
    "ship/net.safetensors": b"weights",
    "beside.txt": b"somebody's",
    "folder/beside.txt": b"somebody's",
}
_NAMES = (
    *("../beside.txt", "models/../../beside.txt", "mine.txt", "models/mine.txt", "link/beside.txt"),
    *("net.safetensors", "./net.safetensors", "models", "", ".", "/etc/passwd", "steps.json"),
    *("models/x.onnx", "models/../mine.txt", "link"),
)


def _make(folder: Path) -> None:
    (folder / "models").mkdir(parents=True, exist_ok=True)
    (folder / "models" / "x.onnx").write_bytes(b"model")
    (folder / "bundles" / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "bundles" / "deep" / "part.bin").write_bytes(b"part")


_MADE = {"ship/models/x.onnx": b"model", "ship/bundles/deep/part.bin": b"part"}


def _run(folder: Path, made_from: str) -> Steps:
    """Two steps: one with a file, one with a folder."""
    steps = Steps(folder / "steps.json", [folder / "net.safetensors"])
    for name, output in (("export", "models/x.onnx"), ("bundle", "bundles")):
        steps.run(name, {"from": made_from}, [folder / output], lambda: _make(folder))
    return steps


def _seeds() -> Mapping[str, Files]:
    with tempfile.TemporaryDirectory() as name:
        _run(Path(name) / "ship", "a")
        return {"shipped": {**read_files(Path(name)), **_OTHERS}}


def _mutate_record(data: bytes, rng: random.Random) -> bytes:
    """The record, in half of the cases with the digest of the changed content."""
    if rng.random() < 0.4:
        return mutate_json(data, rng)
    content = json.loads(data)["content"]
    for _ in range(rng.choice((1, 1, 2, 4))):
        if rng.random() < 0.5:
            step = rng.choice(sorted(content["steps"])) if content.get("steps") else None
            outputs = content["steps"][step].get("outputs") if step else None
            if isinstance(outputs, dict):
                digests = [*outputs.values(), "0", "", None, 0]
                outputs[rng.choice(_NAMES)] = rng.choice(digests)
        else:
            content = mutate_value(content, rng)
        if not _is_record(content):
            break
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_record(Path(folder) / "steps.json", content)
        except ValueError:  # half a surrogate pair
            return mutate_json(data, rng)
        return (Path(folder) / "steps.json").read_bytes()


def _is_record(content: object) -> bool:
    steps = content.get("steps") if isinstance(content, dict) else None
    return isinstance(steps, dict) and all(isinstance(step, dict) for step in steps.values())


def _mutate(files: Files, rng: random.Random) -> Files:
    if rng.random() < 0.1:
        return mutate_one(files, rng, {".json": _mutate_record})
    return {**files, "ship/steps.json": _mutate_record(files["ship/steps.json"], rng)}


def _read(folder: Path, seed: Files) -> None:
    before = read_files(folder)
    ship = folder / "ship"
    ship.mkdir(exist_ok=True)
    (ship / "link").symlink_to(folder)
    for made_from in ("a", "b"):
        steps = _run(ship, made_from)
        found = read_files(folder)
        for path, content in {**before, **(_MADE if steps.done == 2 else {})}.items():
            if path not in ("ship/steps.json", *_MADE) and found.get(path) != content:
                raise Fault(f"{path} was {content!r}, and is {found.get(path)!r}")
        for path, content in _MADE.items():
            if steps.done == 2 and found.get(path) != content:
                raise Fault(f"{path} was not made")
    again = _run(ship, "b")
    if again.unchanged != 2:
        raise Fault("what was just made is made again")


READER = Reader(_seeds, _mutate, _read)
