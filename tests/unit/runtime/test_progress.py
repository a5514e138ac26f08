"""What a bar leaves on stderr."""

from __future__ import annotations

import pytest

from adadm.runtime.progress import Bar


def test_in_a_pipe_messages_alone_are_printed(capfd: pytest.CaptureFixture[str]) -> None:
    bar = Bar("reading")
    bar.message("before [b]it[/b]")
    with bar:
        below = bar.beneath()
        bar.phase("running")
        bar.advance(1, 2, "note")
        below.phase("a part")
        bar.message("x" * 200, warning=True)
    assert capfd.readouterr() == ("", f"before [b]it[/b]\n{'x' * 200}\n")


def test_on_a_terminal_a_bar_counts_its_phase(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Bar("reading") as bar:
        bar.advance(9, 9)
        bar.phase("running [b]it[/b]")
        bar.advance(1, 2, "a note")
    shown = capfd.readouterr().err
    assert all(text in shown for text in ("running [b]it[/b]", "1/2", "a note"))
    assert "9/9" not in shown.rpartition("running")[2]
