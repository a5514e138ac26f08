"""Files of PyTorch, and tensors of every kind in them."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import torch


def saved(content: object) -> bytes:
    """A file of `torch.save`."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


CHANGES: tuple[Callable[[torch.Tensor], Any], ...] = (
    lambda t: t + 1j,
    lambda t: t.to_sparse(),
    lambda t: t.flatten()[None].to_sparse_csr(),
    lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    lambda t: torch.nested.nested_tensor([t, t]),
    lambda t: t.to("meta"),
    lambda t: t.flatten()[:1].expand(t.shape),
    lambda t: t.expand(1000, 1000, *t.shape),
    lambda t: t.to(torch.float8_e4m3fn),
    lambda t: t.long(),
    lambda t: t > 0,
    lambda t: t.double() * 1e300,
    lambda t: t.double() * 1e-300,
    lambda t: t.half(),
    lambda t: t.bfloat16(),
    lambda t: t / 0,
    lambda t: -t,
    lambda t: t[..., None],
    lambda t: t.flatten(),
    lambda t: t[:0],
    lambda t: t.reshape(-1)[0],
    lambda t: torch.ones(2000, *t.shape[1:]),
    lambda t: torch.nn.Parameter(t.float()),
    lambda t: t.t() if t.ndim == 2 else t.transpose(0, -1),
    lambda t: t.tolist(),
    lambda t: None,
)
"""Make another tensor of one, or something else; some raise an error."""


def flip_entry(data: bytes, rng: random.Random) -> bytes:
    """Change one bit of an entry of a zip archive; its checksum stays."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entry = rng.choice([entry for entry in archive.infolist() if entry.file_size])
    name, extra = struct.unpack_from("<HH", data, entry.header_offset + 26)
    start = entry.header_offset + 30 + name + extra
    changed = bytearray(data)
    changed[start + rng.randrange(entry.file_size)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def checksums(data: bytes) -> dict[str, int] | None:
    """CRC-32 by entry, as the archive states it; None if it is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {entry.filename: entry.CRC for entry in archive.infolist()}
    except Exception:  # noqa: BLE001 - of zipfile
        return None
