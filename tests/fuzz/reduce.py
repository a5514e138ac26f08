"""The least case that still fails: parts of its files are left out, as long as it does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from fuzz.reader import Case


def reduce(case: Case, fails: Callable[[Case], bool], *, seconds: float) -> Case:
    """Leave out whatever the failure does not need.

    Args:
        fails: whether a case fails in the same way.
        seconds: time that it may take.
    """
    deadline = time.monotonic() + seconds
    for name in sorted(case.files):
        case = _without_file(case, name, fails)
    for name in sorted(case.files):
        for halves in (_json_parts, _byte_parts):
            case = _reduced_file(case, name, halves, fails, deadline)
    return case


def _without_file(case: Case, name: str, fails: Callable[[Case], bool]) -> Case:
    files = {other: content for other, content in case.files.items() if other != name}
    smaller = Case(files, case.seed)
    return smaller if files and fails(smaller) else case


def _reduced_file(
    case: Case,
    name: str,
    parts: Callable[[bytes], Iterator[bytes]],
    fails: Callable[[Case], bool],
    deadline: float,
) -> Case:
    found = True
    while found and name in case.files:
        found = False
        for content in parts(case.files[name]):
            if time.monotonic() > deadline:
                return case
            smaller = Case({**case.files, name: content}, case.seed)
            if fails(smaller):
                case, found = smaller, True
                break
    return case


def _byte_parts(data: bytes) -> Iterator[bytes]:
    """The data without a part of it, the largest parts first."""
    size = len(data)
    while size := size // 2:
        for start in range(0, len(data), size):
            yield data[:start] + data[start + size :]


def _json_parts(data: bytes) -> Iterator[bytes]:
    """JSON without one of its entries; nothing if it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    holders: list[Any] = [value]
    for holder in holders:
        if not isinstance(holder, (dict, list)):
            continue
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            holders.append(entry := holder[key])
            if isinstance(holder, dict):
                del holder[key]
                yield json.dumps(value).encode()
                holder[key] = entry
            else:
                yield json.dumps(_without(value, holder, key)).encode()


def _without(value: Any, holder: list[Any], place: int) -> Any:
    """A copy without an entry of one list in it."""
    if isinstance(value, dict):
        return {name: _without(entry, holder, place) for name, entry in value.items()}
    if isinstance(value, list):
        kept = value[:place] + value[place + 1 :] if value is holder else value
        return [_without(entry, holder, place) for entry in kept]
    return value
