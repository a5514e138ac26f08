"""Inputs and expected outputs of a bundle, as numpy reads them, behind the digests."""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from _support.bundles import bundled, write_bundle
from adadm.runtime.bundles.bundle import Bundle
from fuzz.mutations import mutate_bytes, mutate_zip
from fuzz.reader import Fault, Files, Reader, read_files

_TEXTS = (
    *(b"'descr': '|O'", b"'descr': '<U99999999'", b"'descr': '<f2'", b"'descr': [('a', '<f4')]"),
    *(b"'shape': (1, 3, 999999999, 999999999)", b"'shape': (-1, 3)", b"'shape': ()", b"'shape': 3"),
    *(b"'fortran_order': True", b"'fortran_order': 1", b"__import__('os').system('touch x')"),
)


@cache
def _bundle() -> Files:
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(Path(folder) / "bundle", {"whole": bundled()})
        files = read_files(Path(folder) / "bundle")
    return {name: content for name, content in files.items() if not name.endswith(".bin")}


def _seeds() -> Mapping[str, Files]:
    return {"bundle": _bundle()}


def _mutate(files: Files, rng: random.Random) -> Files:
    name = rng.choice([name for name in sorted(files) if name.endswith(".npz")])
    return {**files, name: mutate_zip(files[name], rng, {".npy": _mutate_array})}


def _mutate_array(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return mutate_bytes(data, rng)
    start = data.index(b"{") + 1
    end = data.index(b"\n")
    entries = data[start:end].strip().rstrip(b"}").rstrip(b", ").split(b", '")
    text = rng.choice(_TEXTS)
    kept = [entry for entry in entries if entry.strip(b"' ").split(b"'")[0] not in text]
    header = b"{" + text + b", '" + b", '".join(entry.lstrip(b"'") for entry in kept) + b", }"
    return data[: start - 1] + header.ljust(end - start + 1)[: end - start + 1] + data[end:]


def _read(folder: Path, seed: Files) -> None:
    bundle = Bundle.open(folder)
    changed = {name for name, content in seed.items() if (folder / name).read_bytes() != content}
    if not changed <= set(bundle.changed_files()):
        raise Fault(f"{changed} changed, and the digests hold")
    for reference in bundle.references:
        arrays = bundle.arrays(reference)
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise Fault("no arrays")
        if reference.file not in changed:
            with np.load(io.BytesIO(seed[reference.file])) as content:
                for name, array in content.items():
                    np.testing.assert_array_equal(arrays[name], array)


READER = Reader(_seeds, _mutate, _read)
