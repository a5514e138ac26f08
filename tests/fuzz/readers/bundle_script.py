"""`verify.py` on a device up to the import of what it unpacked, and that of JetPack 5."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import platform
import random
import sys
import zipfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import ModuleType

from adadm.runtime.errors import AdadmError
from fuzz.mutations import mutate_bytes, mutate_json, mutate_one, mutate_zip
from fuzz.reader import Fault, Files, Reader, read_files
from fuzz.tiny_bundle import tiny_bundle

_WHEEL = "wheels/adadm_deploy-9.9-py3-none-any.whl"
_OTHER = "wheels/rich-1-py3-none-any.whl"
_MODULE = "adadm/runtime/cli.py"


def _script(name: str) -> ModuleType:
    path = Path(str(resources.files("adadm.deployment.bundling.device_files") / name))
    spec = importlib.util.spec_from_file_location(f"device_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module, before = importlib.util.module_from_spec(spec), list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


_VERIFY, _COMPARE = _script("verify.py"), _script("compare_outputs.py")


def _zip(**contents: str) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return written.getvalue()


def _with_manifest(files: Files, **more: object) -> Files:
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest = {"adadm": "9.9", "files": digests, **more}
    return {**files, "MANIFEST.json": json.dumps(manifest).encode()}


def _seeds() -> Mapping[str, Files]:
    platform.platform()  # runs uname once
    wheels = {_WHEEL: _zip(**{_MODULE: "def run(): ...\n"}), _OTHER: _zip(**{"rich/a.py": "1\n"})}
    bundle = _with_manifest(wheels)
    digests = [hashlib.sha256(wheels[name]).hexdigest() for name in sorted(wheels)]
    library = f"lib-{hashlib.sha256(''.join(digests).encode()).hexdigest()[:12]}"
    unpacked = {f"{library}/{_MODULE}": b"def run(): ...\n", f"{library}/rich/a.py": b"1\n"}
    old = dict(tiny_bundle("jetson-orin-jp51"))
    output = {"name": "sr", "dimensions": "1x3x18x24", "values": _values(old)}
    old |= {"model.engine": b"plan", "outputs/whole.waves.json": json.dumps([output]).encode()}
    return {"new": bundle, "unpacked": {**bundle, **unpacked}, "trtexec": old}


def _values(bundle: Files) -> list[float]:
    raw = memoryview(bundle["reference/whole.waves.sr.bin"]).cast("f")
    return list(raw)


def _mutate_wheel(data: bytes, rng: random.Random) -> bytes:
    return mutate_zip(data, rng, {".py": mutate_bytes})


def _mutate(files: Files, rng: random.Random) -> Files:
    kind = rng.random()
    if kind < 0.1:
        name = rng.choice(
            ("json.py", "lib-1/x.py", "wheels/more-1-py3-none-any.whl", "a\x1b[2J.py")
        )
        return {**files, name: rng.randbytes(9)}
    if kind < 0.3:
        return {**files, "MANIFEST.json": mutate_json(files["MANIFEST.json"], rng)}
    changed = mutate_one(
        files, rng, {".whl": _mutate_wheel, ".json": mutate_json, ".npz": mutate_zip}
    )
    if kind < 0.7 and _WHEEL in files:  # by somebody who makes the digests agree
        return {
            **changed,
            **_with_manifest({n: c for n, c in changed.items() if n.endswith(".whl")}),
        }
    return changed


def _read(folder: Path, seed: Files) -> None:
    try:
        (_read_new if _WHEEL in seed else _read_old)(folder, seed)
    except SystemExit as end:
        raise AdadmError(str(end)) from end


def _read_new(folder: Path, seed: Files) -> None:
    vars(_VERIFY)["HERE"] = folder.resolve()
    _, checksums = _VERIFY.read_manifest()
    wheels = {path.name: path.read_bytes() for path in (folder / "wheels").glob("*.whl")}
    library = _VERIFY.library(checksums, "it is wanted")
    for name, content in wheels.items():
        if checksums.get(f"wheels/{name}") != hashlib.sha256(content).hexdigest():
            raise Fault(f"{name} is another wheel, and was unpacked")
    expected: dict[str, bytes] = {}
    for _, content in sorted(wheels.items()):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            expected |= {n: archive.read(n) for n in archive.namelist() if not n.endswith("/")}
    found = read_files(library)
    strange = [name for name, content in found.items() if content not in expected.values()]
    if strange or len(found) > len(expected):
        raise Fault(f"{strange or sorted(found)} are not of the wheels")


def _read_old(folder: Path, seed: Files) -> None:
    vars(_COMPARE)["HERE"] = folder.resolve()
    engine, outputs = folder / "model.engine", folder / "outputs" / "whole.waves.json"
    arguments, sys.argv = sys.argv, ["verify.py", "--json", str(folder / "result.json")]
    try:
        code = _COMPARE.main()
    finally:
        sys.argv = arguments
    manifest = json.loads((folder / "MANIFEST.json").read_bytes().decode("utf-8-sig"))
    shipped = {n: c for n, c in read_files(folder).items() if n in manifest["files"]}
    same = all(hashlib.sha256(c).hexdigest() == manifest["files"][n] for n, c in shipped.items())
    passed = json.loads((folder / "result.json").read_bytes())["passed"]
    if passed != (code == 0):
        raise Fault(f"exit {code}, but passed is {passed}")
    if code == 0 and not (same and engine.is_file() and outputs.is_file()):
        raise Fault("files were changed, and it passed")


READER = Reader(_seeds, _mutate, _read)
