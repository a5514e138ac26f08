#!/usr/bin/env python3
"""Read the options of trtexec from NVIDIA's sources; write trtexec_options.json.

    git clone --no-checkout --filter=blob:none https://github.com/NVIDIA/TensorRT
    python scripts/update_trtexec_options.py TensorRT

An option counts if the parser removes it from the command line, since trtexec fails if an option is
left. Options mentioned only in the help or in a warning do not count, nor those that are removed
from the command line to be refused.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from adadm.runtime.arguments import Parser, Paths
from adadm.runtime.cli import run
from adadm.runtime.errors import EngineError
from adadm.runtime.files import written_whole

TABLE = Path(__file__).resolve().parent.parent / "runtime" / "engines" / "trtexec_options.json"
SOURCE = "samples/common/sampleOptions.cpp"

# Version named by targets, and release branch. 10.13, 10.13.2 and 10.13.3 have the same options;
# JetPack 7.0 and 7.1 have the last of them.
_VERSIONS = ("8.5", "8.6", "10.3", "10.13", "10.16", "11.0", "11.1")
BRANCHES = dict(zip(_VERSIONS, _VERSIONS, strict=True)) | {"10.13": "10.13.3"}

_STRING_OR_COMMENT = re.compile(
    r"""(R"\(.*?\)"|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])')|//[^\n]*|/\*.*?\*/""", re.DOTALL
)
# Options of trtSafeExec, another program, and those of a build for safety-critical use, which is
# not the default.
_NOT_OF_TRTEXEC = re.compile(
    r"^void SafeBuilderOptions::parse\(.*?^\}|^#if ENABLE_UNIFIED_BUILDER$.*?^#endif",
    re.DOTALL | re.MULTILINE,
)
_TAKEN = re.compile(r'\bget\w+\([^;{}"]*"(--\w+)"')
_REFUSED = re.compile(
    r"""\bget\w+\([^;{}"]*"(--\w+)",\s*(\w+)\)(?:\)|;\s*if\s*\(\2\))\s*\{?\s*throw\b"""
)


def main(argv: list[str]) -> None:
    """Read each version of the source and write the table."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    paths = Paths()
    parser.add_argument(
        "checkout",
        type=paths.read,
        help="a clone of https://github.com/NVIDIA/TensorRT, bare or not",
    )
    parser.add_argument("-o", "--output", type=paths.written, default=TABLE)
    arguments = parser.parse_args(argv)
    paths.check()
    table = {}
    for version, branch in BRANCHES.items():
        commit = _commit(arguments.checkout, f"release/{branch}")
        source = _git(arguments.checkout, "show", f"{commit}:{SOURCE}")
        table[version] = {"commit": commit, "options": options_in(source)}
    with written_whole(arguments.output) as partial:
        partial.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {arguments.output}")


def options_in(source: str) -> list[str]:
    """Options of trtexec in alphabetical order, given the content of `SOURCE`."""
    parser = _STRING_OR_COMMENT.sub(lambda match: match[1] or " ", source)
    parser = _NOT_OF_TRTEXEC.sub("", parser)
    refused = {match[1] for match in _REFUSED.finditer(parser)}
    return sorted(set(_TAKEN.findall(parser)) - refused)


def _commit(checkout: Path, branch: str) -> str:
    """Commit of a branch, preferably of the remote: a local branch may be older."""
    names = (f"refs/heads/{branch}", f"refs/remotes/origin/{branch}")
    commits = _git(checkout, "for-each-ref", "--format=%(objectname)", *names).split()
    if not commits:
        raise EngineError(
            f"{checkout} has no branch {branch}: expected a clone of "
            "https://github.com/NVIDIA/TensorRT with all its branches; run `git fetch` in it"
        )
    return commits[-1]


def _git(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(checkout), *arguments], capture_output=True, encoding="utf-8"
    )
    if done.returncode:
        raise EngineError(f"git {arguments[0]} in {checkout}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(run("update_trtexec_options.py", main, sys.argv[1:]))
