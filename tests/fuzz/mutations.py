"""Changes of files: of bytes, and of what JSON, protobuf and zip files consist of."""

from __future__ import annotations

import copy
import io
import json
import random
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

from fuzz.reader import Files

Mutate = Callable[[bytes, random.Random], bytes]

_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63)
_TEXTS = (
    *("", "..", "../x", "/etc/passwd", "/tmp/x", "a/../../x", "nul\0", "\u202egnp.exe", "[/b]"),
    *("[red]", "<script>alert(1)</script>", "{{ 7 * 7 }}", "\x1b[2J", "\n", "x" * 5000, "1e999"),
    *("nan", "-1", "0", "2.5", "$(touch x)", "`touch x`", "é", "\udc80", "a\nb", "//x/y", "~/x"),
)
_RAW = ("NaN", "Infinity", "1e999", "-1e999", "1" * 5000, "1e-320", "[" * 2000, '{"a":' * 2000)
"""What JSON text may hold that no value of Python stands for."""
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**18, 1.5, 1e308, -1e-320, 0.1),
    *([], {}, [[]], [None], {"": None}, [1, 2, 3], "", *_TEXTS),
)
_LARGEST = 1 << 20
_MARK = "\ue000raw"


def mutate_one(files: Files, rng: random.Random, by_suffix: Mapping[str, Mutate]) -> Files:
    """Change one file, by the mutator of its suffix; by `mutate_bytes` if it has none."""
    name = rng.choice(sorted(files))
    suffix = next((suffix for suffix in by_suffix if name.endswith(suffix)), None)
    mutate = mutate_bytes if suffix is None else by_suffix[suffix]
    return {**files, name: mutate(files[name], rng)}


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change some bytes: flip, set, insert, remove, repeat, move, cut."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        _CHANGES[rng.randrange(len(_CHANGES))](changed, rng)
    return bytes(changed)


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _set_number(data: bytearray, rng: random.Random) -> None:
    form = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    number = rng.choice(_NUMBERS) % (1 << 8 * struct.calcsize(form))
    _put(data, rng, struct.pack(form, number))


def _put(data: bytearray, rng: random.Random, new: bytes) -> None:
    start = rng.randrange(len(data) + 1)
    data[start : start + len(new)] = new


def _insert(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    data[start:start] = rng.randbytes(rng.choice((1, 2, 4, 100)))


def _remove(data: bytearray, rng: random.Random) -> None:
    start, stop = _span(data, rng)
    del data[start:stop]


def _repeat(data: bytearray, rng: random.Random) -> None:
    start, stop = _span(data, rng)
    data[stop:stop] = data[start:stop] * rng.choice((1, 1, 3, 50))


def _move(data: bytearray, rng: random.Random) -> None:
    start, stop = _span(data, rng)
    _put(data, rng, bytes(data[start:stop]))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _span(data: bytearray, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 2, 4, 8, 64, 512)))


_CHANGES = (
    _flip,
    _flip,
    _set,
    _set,
    _set_number,
    _set_number,
    _insert,
    _remove,
    _repeat,
    _move,
    _cut,
)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Change JSON: mostly values, names and structure, now and then the text itself."""
    if rng.random() < 0.15:
        return mutate_bytes(data, rng)
    try:
        value = json.loads(data)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            value = mutate_value(value, rng)
        text = json.dumps(value, indent=rng.choice((None, 2)))
    except (ValueError, RecursionError):
        return mutate_bytes(data, rng)
    if len(text) > _LARGEST:
        return mutate_bytes(data, rng)
    if rng.random() < 0.1:
        text = _with_a_doubled_name(text, rng)
    if rng.random() < 0.02:
        text = "\ufeff" + text
    return _raw(text, rng)


def mutate_value(value: Any, rng: random.Random) -> Any:
    """Change one place of what JSON consists of."""
    value = copy.deepcopy(value)
    places = _places(value)
    if not places:
        return rng.choice(_VALUES)
    holder, key = rng.choice(places)
    old = holder[key]
    kind = rng.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice((*_TEXTS, str(key) + "x", str(key).upper()))] = holder.pop(key)
    elif kind == 1:
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(old))
    elif kind == 2:
        holder[key] = rng.choice(
            ([old], {"x": old}, str(old), [old, old], [old] * (1000 if len(repr(old)) < 200 else 1))
        )
    elif kind == 3:
        other, place = rng.choice(places)
        holder[key] = copy.deepcopy(other[place]) if other is not holder else rng.choice(_VALUES)
    elif kind == 4:
        holder[key] = _MARK
    elif kind == 5 and isinstance(old, (int, float)):
        holder[key] = rng.choice((-old, old + 1, old * 2, old / 3, old * 10**9, float(old)))
    elif kind == 5 and isinstance(old, str):
        holder[key] = mutate_bytes(old.encode("utf-8", "replace"), rng).decode("utf-8", "replace")
    else:
        holder[key] = rng.choice(_VALUES)
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    places: list[tuple[Any, Any]] = []
    below = [value]
    while below:
        holder = below.pop()
        if isinstance(holder, dict):
            keys: list[Any] = sorted(holder)
        elif isinstance(holder, list):
            keys = list(range(min(len(holder), 50)))
        else:
            continue
        places += [(holder, key) for key in keys]
        below += [holder[key] for key in keys]
    return places


def _raw(text: str, rng: random.Random) -> bytes:
    """The text with what no value stands for in the marked places."""
    text = re.sub(re.escape(json.dumps(_MARK)), lambda _: rng.choice(_RAW), text)
    return text.encode("utf-8", "surrogatepass")


def _with_a_doubled_name(text: str, rng: random.Random) -> str:
    starts = [place for place, letter in enumerate(text) if letter == "{"]
    if not starts:
        return text
    start = rng.choice(starts) + 1
    name = text[start:].lstrip().split(":", 1)[0]
    return text[:start] + (f"{name}: 1, " if name.startswith('"') else "") + text[start:]


def mutate_protobuf(data: bytes, rng: random.Random) -> bytes:
    """Change a field of a protobuf message at any depth, lengths kept true; or just bytes."""
    if rng.random() < 0.25:
        return mutate_bytes(data, rng)
    return _mutate_message(data, rng, depth=rng.randrange(9))


def _mutate_message(data: bytes, rng: random.Random, depth: int) -> bytes:
    fields = _fields(data)
    if not fields:
        return mutate_bytes(data, rng)
    place = rng.randrange(len(fields))
    number, kind, content = fields[place]
    if depth > 0:  # mostly into what is a message itself
        messages = [
            at for at, (_, kind, inner) in enumerate(fields) if kind == 2 and _fields(inner)
        ]
        if messages:
            place = rng.choice(messages)
            number, kind, content = fields[place]
            fields[place] = (number, kind, _mutate_message(content, rng, depth - 1))
            return b"".join(_field(*field) for field in fields)
    change = rng.randrange(7)
    if change == 0:
        del fields[place]
    elif change == 1:
        fields.insert(rng.randrange(len(fields) + 1), fields[place])
    elif change == 2:
        other = rng.randrange(len(fields))
        fields[place], fields[other] = fields[other], fields[place]
    elif change == 3:
        fields[place] = (rng.choice((number + 1, 1, 2, 3, 5, 7, 14, 20, 100)), kind, content)
    elif change == 4:
        fields.insert(place, (rng.randrange(1, 30), 0, _varint(rng.choice(_NUMBERS))))
    elif kind == 0:
        fields[place] = (number, 0, _varint(rng.choice((*_NUMBERS, 2**64 - 1, rng.randrange(30)))))
    elif kind == 2:
        hostile = rng.choice(
            (rng.choice(_TEXTS).encode("utf-8", "surrogatepass"), b"\xff\xfe", b"")
        )
        fields[place] = (number, 2, rng.choice((mutate_bytes(content, rng), hostile)))
    else:
        fields[place] = (number, kind, rng.randbytes(len(content)))
    return b"".join(_field(*field) for field in fields)


def _fields(data: bytes) -> list[tuple[int, int, bytes]]:
    """Fields of a message: number, wire type, content; none if it is not a message."""
    fields, place = [], 0
    while place < len(data):
        head, place = _read_varint(data, place)
        number, kind = head >> 3, head & 7
        if number == 0 or place > len(data):
            return []
        if kind == 0:
            value, stop = _read_varint(data, place)
            content = _varint(value)
        elif kind == 2:
            length, place = _read_varint(data, place)
            stop = place + length
            content = data[place:stop]
        elif kind in (1, 5):
            stop = place + (8 if kind == 1 else 4)
            content = data[place:stop]
        else:
            return []
        if stop > len(data):
            return []
        fields.append((number, kind, content))
        place = stop
    return fields


def _field(number: int, kind: int, content: bytes) -> bytes:
    length = _varint(len(content)) if kind == 2 else b""
    return _varint(number << 3 | kind) + length + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80 or shift > 63:
            return value, place
    return value, len(data) + 1


def mutate_zip(data: bytes, rng: random.Random, inner: Mapping[str, Mutate] | None = None) -> bytes:
    """Change a zip: its bytes, or an entry, its name or its place with right checksums.

    Args:
        inner: mutators of entries by suffix.
    """
    kind = rng.randrange(6)
    if kind < 2:
        return mutate_bytes(data, rng)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    except Exception:  # noqa: BLE001 - of zipfile and zlib
        return mutate_bytes(data, rng)
    place = rng.randrange(len(entries))
    entry, content = entries[place]
    if kind == 2:
        del entries[place]
    elif kind == 3:
        entry.filename = rng.choice(
            (*(text for text in _TEXTS if text and text.isprintable()), entry.filename + "x")
        )
    elif rng.random() < 0.1:
        entries.append((entry, content))
    else:
        suffix = next((suffix for suffix in inner or {} if entry.filename.endswith(suffix)), None)
        change = mutate_bytes if suffix is None or inner is None else inner[suffix]
        entries[place] = (entry, change(content, rng))
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of doubled names
        for entry, content in entries:
            archive.writestr(entry, content)
    return written.getvalue()
