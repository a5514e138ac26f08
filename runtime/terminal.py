"""Text for people: names with their control characters escaped, on streams that bear any reader."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TextIO

# Control characters, separators of lines, what steers the direction of text (Unicode's property
# Bidi_Control), and bytes of a file name that are not UTF-8. Lists in our messages go on after a
# newline and two spaces; any other newline is part of a name.
_UNSAFE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f"
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]|\n(?!  )"
)

_STDERR = 2


def shown(text: object) -> str:
    r"""Text that neither steers a terminal nor passes for another line: ESC becomes `\x1b`."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def say(text: object, file: TextIO | None = None) -> None:
    """Print a line, by default on stdout."""
    print(shown(text), file=file)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Make stdout and stderr accept any text, whoever reads it, while the block runs.

    Characters that the encoding lacks are escaped. What a closed stream, or a pipe whose reader has
    left (`| head`), cannot take is dropped: that is no failure of the work.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass  # a closed one has the lowest free number: a file to be written would take its place
    os.close(descriptor)
    before = sys.stdout, sys.stderr
    if logging.lastResort is not None:  # prints the warnings of our modules
        logging.lastResort.setFormatter(_Escaping())
    with ExitStack() as opened:
        sys.stdout = _bearing(sys.stdout, sys.__stdout__, opened)
        sys.stderr = _bearing(sys.stderr, sys.__stderr__, opened)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def _bearing(stream: TextIO | None, original: TextIO | None, opened: ExitStack) -> TextIO:
    if stream is None:
        return opened.enter_context(open(os.devnull, "w"))
    if stream is original and isinstance(stream, io.TextIOWrapper):
        raw = io.BufferedWriter(_Pipe(stream.fileno(), "wb", closefd=False))
        bearing = io.TextIOWrapper(
            raw,
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
        )
        opened.callback(_close, bearing)
        return bearing
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def _close(stream: TextIO) -> None:
    with suppress(OSError):  # `run` has flushed what matters
        stream.close()


class _Escaping(logging.Formatter):
    """Log messages as they may be shown."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


class _Pipe(io.FileIO):
    """A file that takes what its reader, who has left, no longer does."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            return memoryview(content).nbytes
