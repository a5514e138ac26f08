"""One check of a machine: its finding, verdict and remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from adadm.runtime.errors import AdadmError, SessionError

Verdict = Literal["ok", "missing", "broken"]

_LONGEST_LINE = 200


@dataclass(frozen=True)
class Observation:
    """The outcome of one check.

    Attributes:
        verdict: `missing` if something required is absent, `broken` if it is present but does not
            work.
        advice: remedy if the verdict is not ok; a command where there is one.
        details: further findings for programs; finite numbers only.
    """

    name: str
    found: str
    verdict: Verdict = "ok"
    advice: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


def first_line(error: AdadmError | OSError) -> str:
    """First line of an error message, shortened."""
    line = str(error).strip().partition("\n")[0]
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..."


@contextmanager
def reraise_as_session_error() -> Iterator[None]:
    """Turn any exception of a broken installation into a `SessionError`, which is a finding.

    Raises:
        AdadmError: an error of the block; other exceptions become a `SessionError`.
    """
    try:
        yield
    except AdadmError:
        raise
    except Exception as error:
        raise SessionError(f"{type(error).__name__}: {error}") from error
