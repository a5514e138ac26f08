"""What a look at a machine finds: one thing that was looked at, and what came of it."""

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
    """One thing that was looked at.

    Attributes:
        verdict: `missing` where something that is needed is not there, `broken` where it is there
            and does not work.
        advice: what to do where it is not ok, a command to type wherever there is one.
        details: more of it for machines; finite numbers only.
    """

    name: str
    found: str
    verdict: Verdict = "ok"
    advice: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


def first_line(error: AdadmError | OSError) -> str:
    """Of what an error says, without what fills a screen."""
    line = str(error).strip().partition("\n")[0]
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..."


@contextmanager
def reraise_as_session_error() -> Iterator[None]:
    """Make one of ours of whatever a broken installation raises: it is a finding like any other.

    Raises:
        AdadmError: what was raised.
    """
    try:
        yield
    except AdadmError:
        raise
    except Exception as error:
        raise SessionError(f"{type(error).__name__}: {error}") from error
