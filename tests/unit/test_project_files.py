"""Files about the project that say the same thing in different places."""

from __future__ import annotations

import os
import re

import tomllib

from _support.scripts import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))


def test_what_calls_scripts_calls_scripts_that_can_run() -> None:
    callers = [*WORKFLOWS, ROOT / ".ci/run", ROOT / "Makefile", *ROOT.glob("scripts/[!_.]*")]
    calls = {
        name
        for caller in callers
        if caller.is_file() and caller.suffix != ".py"
        for name in re.findall(r"\bscripts/[\w-]+\b(?![./])", caller.read_text())
    }
    assert {"scripts/check", "scripts/test", "scripts/build"} <= calls
    assert [name for name in sorted(calls) if not os.access(ROOT / name, os.X_OK)] == []


def test_the_runtime_layer_is_tested_on_each_python_that_is_promised() -> None:
    (matrix,) = re.findall(
        r"^ +python: \[(.*)\]$", (ROOT / ".github/workflows/ci.yml").read_text(), re.M
    )
    promised = [
        name.rpartition(" ")[2]
        for name in PROJECT["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", name)
    ]
    assert re.findall(r"[\d.]+", matrix) == promised
    assert PROJECT["requires-python"] == f">={promised[0]}"


def test_the_changelog_is_headed_by_the_version() -> None:
    heading = re.search(
        r"^## \[(.+)\] - (unreleased|\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
    assert heading is not None and heading[1] == PROJECT["version"]


def test_what_is_installed_is_what_is_locked() -> None:
    (installed,) = re.findall(r"'\.\[(.*)\]'", (ROOT / "scripts/install").read_text())
    lines = (ROOT / "scripts/lock").read_text().replace("\\\n", "")
    (options,) = re.findall(r"--output-file constraints.txt(.*)", lines)
    locked = re.findall(r"--extra (\w+)", options)
    assert installed.split(",") == locked
