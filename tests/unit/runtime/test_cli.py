from __future__ import annotations

import subprocess
import sys

import pytest

from adadm.runtime import cli
from adadm.runtime.errors import AdadmError


def test_help_lists_the_verbs_and_imports_nothing_that_takes_time() -> None:
    program = (
        "import sys; from adadm.runtime import cli; cli.main(['--help']); heavy = {"
        "'numpy', 'onnx', 'onnxruntime', 'PIL', 'psutil', 'rich', 'torch'} & {*sys.modules}; "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name}" in done.stdout for name in cli.VERBS)


def test_usage_errors_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert cli.main(["exprot"]) == 2
    assert "expected a verb (export, quantize," in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("adadm 0.")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AdadmError("what and why"), "what and why"),
        (PermissionError(13, "denied", "f"), "f: denied"),
        (OSError(28, "full"), "full"),
        (OSError("plainly"), "plainly"),
        (MemoryError(), "out of memory"),
    ],
)
def test_a_failure_is_one_message_and_exit_1(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def verb(arguments: list[str]) -> None:
        raise error

    assert cli.run("adadm verb", verb, []) == 1
    captured = capsys.readouterr()
    assert captured.err == f"adadm verb: {said}\n"
    assert captured.out == ""


def test_control_c_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def verb(arguments: list[str]) -> None:
        raise KeyboardInterrupt

    assert cli.run("adadm verb", verb, []) == 1
    assert capsys.readouterr().err == "adadm verb: stopped\n"


def test_a_missing_extra_is_named_with_its_install_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(
        cli.VERBS, "export", cli.Verb("not_installed_anywhere.verb", "export,cpu", "a verb")
    )
    assert cli.main(["export", "edsr.pt"]) == 1
    message = capsys.readouterr().err
    assert "not-installed-anywhere is not installed" in message
    assert "pip install 'adadm-deploy[export,cpu]'" in message


def test_a_bug_in_a_verb_is_not_taken_for_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.VERBS, "export", cli.Verb("adadm.runtime.nowhere", "cpu", "a verb"))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["export"])
