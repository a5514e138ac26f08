"""What a terminal is shown, and who may read it."""

from __future__ import annotations

import errno
import io
import logging
import os
import subprocess
import sys

import pytest
from rich.table import Table

from adadm.runtime import cli
from adadm.runtime.progress import Bar
from adadm.runtime.tables import Console
from adadm.runtime.terminal import say, shown, standard_streams

NAMES = [
    ("plain name, größer 日本.png", "plain name, größer 日本.png"),
    ("a\x1b[31mred.png", r"a\x1b[31mred.png"),
    ("bell\x07 back\x08 return\r tab\t", r"bell\x07 back\x08 return\r tab\t"),
    ("one\ntwo", r"one\ntwo"),
    ("c1\x9b31m", r"c1\x9b31m"),
    ("lines\u2028\u2029", r"lines\u2028\u2029"),
    ("gnp.\u202etxt\u2066", r"gnp.\u202etxt\u2066"),
    ("a\u200f1\u200e2\u061c", r"a\u200f1\u200e2\u061c"),
    (os.fsdecode(b"latin-\xe9.png"), r"latin-\udce9.png"),
    ("d[/b]x/[red]out [link=file:///x] :smiley:", "d[/b]x/[red]out [link=file:///x] :smiley:"),
    ("a list:\n  one\n  two", "a list:\n  one\n  two"),  # as our messages have them
]


@pytest.mark.parametrize(("name", "expected"), NAMES)
def test_names_are_escaped_wherever_they_are_printed(
    name: str, expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert shown(name) == expected and shown(expected) == expected
    say(name)
    Bar().message(name)
    record = logging.LogRecord("adadm", logging.WARNING, "a.py", 1, "%s", (name,), None)
    with standard_streams():
        assert logging.lastResort is not None and logging.lastResort.format(record) == expected
    Console(width=200).print(name, soft_wrap=True)
    table = Table(name, title=name)
    table.add_row(name)
    record_of = Console(width=200, record=True, file=io.StringIO())
    record_of.print(table)
    assert record_of.export_text().replace("\n  ", "\n").count(expected.split("\n")[0]) == 3

    def verb(_: list[str]) -> None:
        raise OSError(errno.ENOENT, "gone", name)

    assert cli.run("adadm verb", verb, []) == 1
    assert capfd.readouterr() == (
        f"{expected}\n{expected}\n",
        f"{expected}\nadadm verb: {expected}: gone\n",
    )


def test_what_an_encoding_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert cli.run("adadm verb", lambda _: print("größer 日本"), []) == 0
    assert written.getvalue() == rb"gr\xf6\xdfer \u65e5\u672c" + b"\n"


def test_work_goes_on_when_the_reader_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    done = []

    def verb(_: list[str]) -> None:
        for line in range(10_000):
            print("a line that nobody reads", line, flush=line % 1000 == 0)
        done.append(True)

    with open(write, "w", encoding="utf-8") as left, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", left)
        patch.setattr(sys, "__stdout__", left)
        assert cli.run("adadm verb", verb, []) == 0 and done
        assert sys.stdout is left


def test_streams_that_are_none_are_written_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["--help"]) == 0
    assert cli.main(["exprot"]) == 2


@pytest.mark.parametrize(
    ("line", "code"), [("--help | true", 0), ("--help >&-", 0), ("exprot 2>&-", 2), ("2>&- >&-", 2)]
)
def test_closed_streams_and_pipes(line: str, code: int) -> None:
    program = "import sys; from adadm.runtime.cli import main; sys.exit(main())"
    script = f"set -o pipefail; '{sys.executable}' -c '{program}' {line}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")


def test_a_closed_stream_is_not_the_next_file() -> None:
    program = (
        "import os; from adadm.runtime.terminal import standard_streams\n"
        "with standard_streams(): assert os.open(os.devnull, os.O_RDONLY) > 2"
    )
    script = f"exec '{sys.executable}' -c '{program}' <&- >&-"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_a_failure_of_the_help_too() -> None:
    with open("/dev/full", "w") as full:
        program = "import sys; from adadm.runtime.cli import main; sys.exit(main(['--help']))"
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"adadm: standard output: No space left on device\n"


def test_streams_are_put_back() -> None:
    before = sys.stdout, sys.stderr
    with standard_streams():
        pass
    assert (sys.stdout, sys.stderr) == before
