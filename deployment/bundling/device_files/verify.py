#!/usr/bin/env python3
"""Verify the engines of this folder on this machine: python3 verify.py [--json RESULT.json].

Requires only Python and, for the engines, JetPack. If adadm-deploy of this version is not
installed, the wheels in this folder are unpacked to lib-* and used from there.
"""

import sys

if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # this folder, in which nothing but this file is code

import fcntl
import hashlib
import json
import os
import shutil
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Make adadm importable, and verify this folder with it."""
    wanted, checksums = read_manifest()
    try:
        installed = version("adadm-deploy")
    except PackageNotFoundError:
        installed = None
    if installed != wanted:
        sys.dont_write_bytecode = True  # keeps the unpacked folder equal to the wheels
        found = f"{installed} is installed" if installed else "it is not installed"
        needed = f"expected adadm-deploy {wanted}, but {found}"
        sys.path.insert(0, str(library(checksums, needed)))
    from adadm.runtime.cli import run
    from adadm.runtime.verify import main as verify

    return run("verify.py", verify, [str(HERE), *sys.argv[1:]])


def read_manifest() -> tuple[str, dict[str, str]]:
    """Version of adadm-deploy, and the digest of each file by its name."""
    try:
        manifest = json.loads((HERE / "MANIFEST.json").read_text(encoding="utf-8-sig"))
        return str(manifest["adadm"]), dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise refused(f"MANIFEST.json cannot be read: {error!r}; copy the bundle again") from error


def refused(why: str) -> SystemExit:
    """The end, with a message in which nothing steers a terminal."""
    plain = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in why)
    return SystemExit(f"verify.py: {plain}")


def library(checksums: dict[str, str], why: str) -> Path:
    """Folder of the unpacked wheels; `why` says why they are needed."""
    try:
        return unpacked(checked_wheels(checksums, why))
    except Exception as error:  # zipfile and zlib share no narrower base
        raise refused(f"the wheels cannot be unpacked: {error}") from error


def checked_wheels(checksums: dict[str, str], why: str) -> dict[Path, str]:
    """The wheels of this folder with their digests, checked against the manifest.

    `why` says why they are needed.
    """
    wheels = sorted((HERE / "wheels").glob("*.whl"))
    if not wheels:
        raise refused(
            f"{why}, and this folder has no wheels; make the bundle without "
            "--no-wheels, or pip install it"
        )
    digests = {wheel: hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels}
    for wheel, digest in digests.items():
        if digest != checksums.get(f"wheels/{wheel.name}"):
            raise refused(f"{wheel} differs from MANIFEST.json; copy the bundle again")
    return digests


def unpacked(wheels: dict[Path, str]) -> Path:
    """Unpack the wheels to a folder named by their content, unless it exists and is complete."""
    content = hashlib.sha256("".join(wheels.values()).encode()).hexdigest()
    library = HERE / f"lib-{content[:12]}"
    folder = os.open(HERE, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # another verify.py may be unpacking
        if not is_unpacked(library, wheels):
            partial = library.with_suffix(".partial")
            for found in (partial, library):
                if found.is_symlink():
                    found.unlink()
                elif found.exists():
                    shutil.rmtree(found)
            for wheel in wheels:
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(partial)
            partial.rename(library)
    finally:
        os.close(folder)
    return library


def is_unpacked(library: Path, wheels: dict[Path, str]) -> bool:
    """True if a folder has every file of the wheels, byte by byte, and nothing else."""
    if library.is_symlink() or not library.is_dir():
        return False
    expected: dict[Path, Path] = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            expected.update({library / name: wheel for name in names})
    found = {path for path in library.rglob("*") if path.is_symlink() or not path.is_dir()}
    if found != expected.keys() or any(path.is_symlink() for path in found):
        return False
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for path in [path for path, source in expected.items() if source == wheel]:
                name = path.relative_to(library).as_posix()
                if path.read_bytes() != archive.read(name):
                    return False
    return True


if __name__ == "__main__":
    sys.exit(main())
