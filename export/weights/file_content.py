"""Read a file of weights. Its content tells the format; its name means nothing."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from adadm.export.weights.harmless_types import read_pickle
from adadm.runtime import json_format
from adadm.runtime.errors import CheckpointError
from adadm.runtime.files import mistaken, opened

METADATA_KEY = "adadm"
_KNOWN: dict[str, Any] = {
    "architecture": str,
    "hyperparameters": dict[str, float],
    "limits": dict[str, float],
}
"""What our metadata says of a network, and the types."""

_NAMES_SHOWN = 12
_HEAD_BYTES = 1024
_LARGEST_HEADER = 100_000_000
"""safetensors' own limit of a header, bytes."""

_UNPACK = "unpack it, and give the checkpoint in it"
_SAVE = "give the checkpoint of PyTorch from which it was made"
_KINDS = (
    (0, b"\x89HDF\r\n", "an HDF5 file, as Keras writes", _SAVE),
    (0, b"\x93NUMPY", "a NumPy array", _SAVE),
    (0, b"GGUF", "a GGUF model", _SAVE),
    (4, b"TFL3", "a TensorFlow Lite model", _SAVE),
    (0, b"ptrt", "a TensorRT engine", _SAVE),
    (0, b"ftrt", "a TensorRT engine", _SAVE),
    (0, b"7767517", "an ncnn model", _SAVE),
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    (0, b"BZh", "a bzip2 archive", _UNPACK),
    (0, b"\xfd7zXZ", "an xz archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
    (0, b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"\x89PNG", "a PNG image", "give the checkpoint"),
    (0, b"\xff\xd8\xff", "a JPEG image", "give the checkpoint"),
    (0, b"%PDF", "a PDF document", "give the checkpoint"),
)
"""Offset, bytes, what begins so, and the remedy."""


def read_file(path: Path) -> tuple[Any, dict[str, Any]]:
    """Read the content of a checkpoint, and our metadata if it has any.

    Args:
        path: a file of `torch.save` (tensors, plain containers and harmless types) or safetensors.

    Raises:
        CheckpointError: the file cannot be read, or is something else; the message says what.
    """
    if path.is_dir():
        raise CheckpointError(f"expected a .pt, .pth or .safetensors file, got the folder {path}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    with opened(path) as file:
        head = file.read(_HEAD_BYTES)
    if problem := mistaken(head):
        raise CheckpointError(f"{path} {problem}")
    if found := _other_kind(path, head):
        kind, remedy = found
        raise CheckpointError(f"{path} is {kind}, not a checkpoint; {remedy}")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LARGEST_HEADER:
        return _read_safetensors(path)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return read_pickle(path), {}
    raise CheckpointError(
        f"{path} is not a PyTorch checkpoint, nor a readable safetensors file: its first bytes are "
        f"{head[:8]!r}. Copy or download it again, or save it by torch.save(model.state_dict(), "
        "...)"
    )


def _other_kind(path: Path, head: bytes) -> tuple[str, str] | None:
    """What a file is that is not a checkpoint, and what to do."""
    for offset, magic, kind, remedy in _KINDS:
        if head[offset:].startswith(magic):
            return kind, remedy
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"{", b"[")):
        return _kind_of_json(path)
    if head[:2] == b"PK":
        return _kind_of_zip(path)
    if re.match(rb"\x08[\x01-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]", head, re.DOTALL):
        return "an ONNX model", "give the checkpoint; verbs that read ONNX expect the suffix .onnx"
    return None


def _kind_of_json(path: Path) -> tuple[str, str]:
    try:
        content = json_format.load(json_format.Source(path, CheckpointError))
    except CheckpointError:
        content = None
    if isinstance(content, dict) and isinstance(content.get("weight_map"), dict):
        parts = some_names(sorted(set(map(str, content["weight_map"].values()))))
        return f"the index of a checkpoint in parts ({parts})", JOIN
    return "JSON text", "give the file of the weights"


def _kind_of_zip(path: Path) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # noqa: BLE001 (a damaged archive makes zipfile raise anything)
        return None  # `read_pickle` says what is damaged
    members = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in members:
        return (
            "a TorchScript program",
            "if you trust it, save its weights in Python: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')",
        )
    if any(name.endswith("data.pkl") for name in names):
        return None
    if members & {"serialized_exported_program.json", "archive_format"}:
        return "a program of torch.export", _SAVE
    if any(name.endswith((".weights.h5", "model.json")) for name in names):
        return "a Keras model", _SAVE
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of NumPy arrays", _SAVE
    return f"a zip archive of {some_names(names)}", _UNPACK


JOIN = (
    "join the parts: load each by safetensors.torch.load_file or torch.load, and save one "
    "dictionary of all their tensors"
)


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = _parse_metadata(path, (file.metadata() or {}).get(METADATA_KEY, "{}"))
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is truncated, or not a readable safetensors file ({error}); copy or download "
            "it again"
        ) from error


def _parse_metadata(path: Path, text: str) -> dict[str, Any]:
    """Parse our metadata: `_KNOWN`, and notes of any kind."""
    source = json_format.Source(path, CheckpointError, "in its metadata")
    try:
        content = json_format.parse_json(text)
    except ValueError as error:
        raise source.refused(f"cannot be read as JSON: {error}") from error
    metadata = json_format.convert(content, dict[str, Any], source)
    known = {name: metadata[name] for name in _KNOWN.keys() & metadata.keys()}
    return metadata | {n: json_format.convert(v, _KNOWN[n], source) for n, v in known.items()}


def some_names(names: Iterable[str]) -> str:
    """Format names for a message; a long list is cut, with the count of the rest."""
    listed = list(names)
    more = len(listed) - _NAMES_SHOWN
    return (", ".join(listed[:_NAMES_SHOWN]) or "none") + (f", and {more} more" if more > 0 else "")
