"""Every verb and script: run in this process, and its parser."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator

import pytest

from _support.scripts import ROOT, load_script
from adadm.runtime import camera, verify
from adadm.runtime.cli import VERBS, run

SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))
NO_OUTPUT_TO_NAME = {"demo"}


def execute(program: str, words: list[str]) -> int:
    if program in VERBS:
        return run(program, importlib.import_module(VERBS[program].module).main, words)
    module = {"camera": camera, "verify": verify}.get(program) or load_script(program)
    return run(program, module.main, words)


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Of each program, caught before it reads its arguments."""
    programs = [*VERBS, "camera", "verify", *sorted(set(SCRIPTS) - NO_OUTPUT_TO_NAME)]
    for program in programs:
        caught: list[argparse.ArgumentParser] = []

        def catch(parser: argparse.ArgumentParser, *_: object, into: list = caught) -> None:  # type: ignore[type-arg]
            into.append(parser)
            raise SystemExit

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", catch)
            with pytest.raises(SystemExit):
                execute(program, [])
        yield program, caught[0]
