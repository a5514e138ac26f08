#!/usr/bin/env python3
"""Compare the outputs of trtexec on this machine with the references of this folder.

python3 verify.py [--json RESULT.json], after build.sh. Needs Python 3.8 and nothing else.
"""

from __future__ import annotations

import sys

if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # this folder, in which nothing but this file is code

import argparse
import hashlib
import json
import math
import os
import platform
import struct
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Sequence  # noqa: UP035 - for Python 3.8

HERE = Path(__file__).resolve().parent
IMPORTABLE = (".py", ".pyc", ".so", "/")
UNFIT = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    RecursionError,
)
"""What JSON of another form leads to."""
FORMATS = {1: "B", 2: "e", 4: "f"}  # uint8, float16, float32, by size in bytes


def main() -> int:
    """Compare all references, print a line for each, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="JSON file to write the figures to")
    parser.add_argument(
        "--check-files", action="store_true", help="only check that all files are as shipped"
    )
    arguments = parser.parse_args()
    manifest = read_manifest()
    if arguments.json:
        check_output(arguments.json, manifest)
    changed = [name for name, digest in manifest["files"].items() if sha256(inside(name)) != digest]
    for name in changed:
        say(f"FAILED: {name} is missing or is not as it was shipped")
    if arguments.check_files:
        return 1 if changed else 0
    unlisted = unlisted_files(manifest)
    modules = [name for name in unlisted if name.endswith(IMPORTABLE)]
    for name in unlisted:
        said = "FAILED: could be imported in place of a module" if name in modules else "note"
        say(f"{said}: {name} is not part of the bundle")
    results = [compare(found) for found in manifest["references"]]
    passed = not changed and not modules and all(result["passed"] for result in results)
    if arguments.json:
        board = Path("/proc/device-tree/model")
        ran = ["MANIFEST.json", *manifest["models"].values(), *manifest["engines"].values()]
        report = {
            "format": 1,
            "passed": passed,
            "target": manifest["target"],
            "precision": manifest["precision"],
            "backend": "trtexec",
            "changed_files": changed,
            "unlisted_files": unlisted,
            "references": results,
            "device": {
                "board": board.read_text().strip("\0\n") if board.is_file() else None,
                "system": platform.platform(),
                "python": platform.python_version(),
            },
            "sha256": {name: sha256(inside(name)) for name in ran},
        }
        try:
            write_whole(arguments.json, json.dumps(report, indent=2) + "\n")
        except OSError as error:
            raise refused(f"{arguments.json} cannot be written: {error.strerror}") from error
    say("passed" if passed else "FAILED")
    return 0 if passed else 1


def read_manifest() -> dict[str, Any]:
    """Read the fields that are needed here."""
    try:
        manifest = json.loads((HERE / "MANIFEST.json").read_text(encoding="utf-8-sig"))
        read: dict[str, Any] = {name: str(manifest[name]) for name in ("target", "precision")}
        for name in ("files", "models", "engines"):
            read[name] = {key: str(value) for key, value in manifest[name].items()}
        read["references"] = [
            {
                "name": str(found["name"]),
                "form": str(found["form"]),
                "engine": read["engines"][found["form"]],
                "psnr_db": {key: float(db) for key, db in found["psnr_db"].items()},
            }
            for found in manifest["references"]
        ]
    except UNFIT as error:
        raise refused(f"MANIFEST.json cannot be read: {error!r}; copy the bundle again") from error
    return read


def unlisted_files(manifest: dict[str, Any]) -> list[str]:
    """Names of files that are neither shipped nor made here; a link to a folder ends in a slash."""
    engines = [f"{one}{end}" for one in manifest["engines"].values() for end in ("", ".log")]
    cases = [f"outputs/{found['form']}.{found['name']}" for found in manifest["references"]]
    made = [f"{case}{end}" for case in cases for end in (".json", ".log")]
    known = {
        "MANIFEST.json",
        "MANIFEST.json.sig",
        "result.json",
        *manifest["files"],
        *engines,
        *made,
    }
    found = []
    for top, folders, files in os.walk(str(HERE)):
        links = [f"{name}/" for name in folders if os.path.islink(os.path.join(top, name))]
        for path in (os.path.join(top, name) for name in (*files, *links)):
            name = os.path.relpath(path, str(HERE)) + "/" * path.endswith("/")
            if name not in known:
                found.append(plain(name))
    return sorted(found)


def say(text: str) -> None:
    """Print a line, with escapes for what its encoding lacks."""
    encoding = sys.stdout.encoding or "ascii"
    print(plain(text).encode(encoding, "backslashreplace").decode(encoding))


def refused(why: str) -> SystemExit:
    """The end, with a message."""
    return SystemExit(f"verify.py: {plain(why)}")


def plain(text: str) -> str:
    """Text with escapes for what steers a terminal."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def compare(reference: dict[str, Any]) -> dict[str, Any]:
    """Compare one reference: PSNR in dB and largest error of each output, and failures."""
    case = f"{reference['form']}.{reference['name']}"
    outputs: dict[str, Any] = {}
    failures: list[str] = []
    path = inside(f"outputs/{case}.json")
    engine = inside(reference["engine"])
    try:
        if path.stat().st_mtime < engine.stat().st_mtime:
            raise ValueError(f"{path} is older than {engine.name}: run build.sh again")
        found = {output["name"]: output for output in json.loads(path.read_text())}
        for name, asked_db in reference["psnr_db"].items():
            expected = raw(inside(f"reference/{case}.{name}.bin"), found[name]["dimensions"])
            db, largest = apart(found[name]["values"], expected)
            outputs[name] = {"asked_psnr_db": asked_db, "psnr_db": db, "largest_error": largest}
            shown = "equal" if db is None else f"{db:.1f} dB"
            say(f"{case} {name}: {shown}, required {asked_db} dB, largest error {largest:.3g}")
            if db is not None and db < asked_db:
                raise ValueError(f"PSNR of {name} is {db:.1f} dB, required {asked_db} dB")
    except UNFIT as error:  # nan is not a number in JSON
        failures.append(f"{type(error).__name__}: {error}")
        say(f"FAILED: {case}: {failures[0]}")
    return {
        "name": reference["name"],
        "form": reference["form"],
        "passed": not failures,
        "failures": failures,
        "outputs": outputs,
    }


def raw(path: Path, dimensions: str) -> Sequence[float]:
    """Read the numbers of a raw file with dimensions such as 1x3x64x64."""
    count = 1
    for size in dimensions.split("x"):
        count *= int(size)
    content = path.read_bytes()
    if len(content) % count or len(content) // count not in FORMATS:
        raise ValueError(f"{path} has {len(content)} bytes, which do not fit {dimensions}")
    return struct.unpack(f"<{count}{FORMATS[len(content) // count]}", content)


def apart(found: Sequence[float], expected: Sequence[float]) -> tuple[float | None, float]:
    """PSNR in dB against the peak (None if equal), and the largest error."""
    if len(found) != len(expected):
        raise ValueError(f"expected {len(expected)} values, got {len(found)}")
    errors = [abs(one - other) for one, other in zip(found, expected)]  # noqa: B905 - 3.10
    mean_square = math.fsum(error * error for error in errors) / len(errors)
    if not math.isfinite(mean_square):
        raise ValueError("values are not finite numbers")
    peak = max(abs(value) for value in expected)
    if mean_square and not peak:
        raise ValueError(f"off by up to {max(errors):.3g} from a reference that is 0")
    db = 10 * math.log10(peak * peak / mean_square) if mean_square else None
    return db, max(errors)


def inside(name: str) -> Path:
    """Path of a file of this folder; refuses names that lead out of it."""
    with suppress(OSError, ValueError, RuntimeError):  # a null byte, a link to itself
        path = (HERE / name).resolve()
        if HERE in path.parents:
            return path
    raise refused(f"MANIFEST.json names {name}, expected a file of this folder")


def check_output(path: Path, manifest: dict[str, Any]) -> None:
    """Refuse to overwrite an input."""
    named = ["MANIFEST.json", *manifest["files"], *manifest["engines"].values()]
    read = [*map(inside, named), *(HERE / "outputs").glob("*")]
    if path.exists() and any(file.exists() and file.samefile(path) for file in read):
        raise refused(f"--json {path} would replace a file that is read; name another file")
    is_stream = path.is_symlink() and os.readlink(str(path)).startswith("/proc/")
    if is_stream or (path.exists() and not path.is_file()):
        raise refused(f"--json {path} is not a regular file; name another file")


def write_whole(path: Path, text: str) -> None:
    """Write a file in full or not at all."""
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=str(path.parent))
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


def sha256(path: Path) -> str | None:
    """SHA-256 of a file's content; None if it cannot be read."""
    with suppress(OSError):
        if path.is_file():
            return hashlib.sha256(path.read_bytes()).hexdigest()
    return None


if __name__ == "__main__":
    sys.exit(main())
