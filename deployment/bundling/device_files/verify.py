#!/usr/bin/env python3
"""Prove the engines of this folder on this machine: python3 verify.py [--json RESULT.json].

Needs nothing installed but Python and, for the engines, what JetPack brings. Without adadm-deploy
of this version, the wheels in this folder are unpacked to lib-* and used from there.
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
    """Make adadm importable, and let it verify this folder."""
    manifest = json.loads((HERE / "MANIFEST.json").read_text(encoding="utf-8"))
    try:
        installed = version("adadm-deploy")
    except PackageNotFoundError:
        installed = None
    if installed != manifest["adadm"]:
        sys.dont_write_bytecode = True  # the folder stays as it is unpacked, and so can be checked
        try:
            sys.path.insert(0, str(unpacked(checked_wheels(manifest["files"]))))
        except (OSError, zipfile.BadZipFile) as error:
            sys.exit(f"verify.py: the wheels cannot be unpacked: {error}")
    from adadm.runtime.cli import run
    from adadm.runtime.verify import main as verify

    return run("verify.py", verify, [str(HERE), *sys.argv[1:]])


def checked_wheels(checksums: dict[str, str]) -> dict[Path, str]:
    """The wheels of this folder with their digests, if they are those that were put here."""
    wheels = sorted((HERE / "wheels").glob("*.whl"))
    if not wheels:
        sys.exit(
            "verify.py: adadm-deploy is not installed, and there are no wheels in this folder; "
            "make the bundle without --no-wheels, or pip install adadm-deploy"
        )
    digests = {wheel: hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels}
    for wheel, digest in digests.items():
        if digest != checksums.get(f"wheels/{wheel.name}"):
            sys.exit(f"verify.py: {wheel} is not the one of MANIFEST.json; copy the bundle again")
    return digests


def unpacked(wheels: dict[Path, str]) -> Path:
    """The wheels in a folder named by their content, unpacked anew unless it is just that."""
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
    """Whether a folder has every file of the wheels, byte by byte, and nothing else."""
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
