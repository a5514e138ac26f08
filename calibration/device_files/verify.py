#!/usr/bin/env python3
"""Prove the engines of this folder on this machine: python3 verify.py [--json RESULT.json].

Needs nothing installed but Python and, for the engines, what JetPack brings. Without adadm-deploy
of this version, the wheels in this folder are unpacked to lib-* and used from there.
"""

import hashlib
import json
import shutil
import sys
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
        try:
            sys.path.insert(0, str(unpacked(manifest["files"])))
        except (OSError, zipfile.BadZipFile) as error:
            sys.exit(f"verify.py: the wheels cannot be unpacked: {error}")
    from adadm.runtime.cli import run
    from adadm.runtime.verify import main as verify

    return run("verify.py", verify, [str(HERE), *sys.argv[1:]])


def unpacked(checksums: dict[str, str]) -> Path:
    """The wheels in a folder named by their content, if they are those that were put here."""
    wheels = sorted((HERE / "wheels").glob("*.whl"))
    if not wheels:
        sys.exit(
            "verify.py: adadm-deploy is not installed, and there are no wheels in this folder; "
            "make the bundle without --no-wheels, or pip install adadm-deploy"
        )
    digests = [hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels]
    for wheel, digest in zip(wheels, digests, strict=True):
        if digest != checksums.get(f"wheels/{wheel.name}"):
            sys.exit(f"verify.py: {wheel} is not the one of MANIFEST.json; copy the bundle again")
    library = HERE / f"lib-{hashlib.sha256(''.join(digests).encode()).hexdigest()[:12]}"
    if not library.is_dir():
        partial = library.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(partial)
        partial.rename(library)
    return library


if __name__ == "__main__":
    sys.exit(main())
