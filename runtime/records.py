"""Our own JSON files: caches, and records of work. They hold as they were written, or not at all.

Each has a digest of its content and its name. The owner of one that was changed, damaged or renamed
begins anew: its figures must not count as measured.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from adadm.runtime.errors import AdadmError
from adadm.runtime.files import written_whole
from adadm.runtime.json_format import Source, as_json, convert, read

_Class = TypeVar("_Class")


@dataclass(frozen=True)
class _Sealed:
    sha256: str
    content: Any


def read_record(hint: type[_Class], path: Path, warn: Callable[[str], object]) -> _Class | None:
    """Content of a record; None if there is none that holds.

    Args:
        hint: type of the content, as for `json_format.read`.
        warn: receives one warning if a file is there, but does not hold.
    """
    if not os.path.exists(path):  # False also where nobody may look
        return None
    try:
        source = Source(path, AdadmError)
        sealed = read(_Sealed, path, error=AdadmError)
        if sealed.sha256 != _digest(path, _text(sealed.content)):
            raise source.refused("it is not as it was written")
        return convert(sealed.content, hint, source)
    except AdadmError as error:
        warn(f"WARNING: begun anew: {error}")
        return None


def digest_of(content: Any) -> str:
    """SHA-256 of an object as JSON, without its own field `sha256`."""
    rest = {name: value for name, value in as_json(content).items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_record(path: Path, content: Any) -> None:
    """Write a record, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    text = _text(as_json(content))
    sealed = f'{{"sha256": "{_digest(path, text)}",\n"content": {text}}}\n'
    with written_whole(path) as partial:
        partial.write_text(sealed, encoding="utf-8")


def _text(content: Any) -> str:
    return json.dumps(content, sort_keys=True, allow_nan=False)


def _digest(path: Path, text: str) -> str:
    return hashlib.sha256(f"{path.name}\n{text}".encode()).hexdigest()
