from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from adadm.deployment.bundling.wheels import _dependencies, locked_wheels
from adadm.runtime.errors import ExportError
from adadm.runtime.targets import TARGETS, Target

TARGETS_WITH_WHEELS = [
    target for target in TARGETS.values() if target.tensorrt and target.runs_runtime
]


def locked(target: str) -> dict[str, str]:
    """Version by name, for this Python."""
    text = locked_wheels(TARGETS[target]).read_text()
    newer = re.finditer(r"^([\w-]+)==([\w.]+)(?! ; python_full_version < )", text, re.M)
    return {match[1]: match[2] for match in newer}


@pytest.mark.parametrize("target", TARGETS_WITH_WHEELS, ids=lambda target: target.name)
def test_every_wheel_is_locked_by_its_digest(target: Target) -> None:
    text = locked_wheels(target).read_text()
    entries = re.split(r"\n(?=[a-z])", re.sub(r"^#.*\n", "", text, flags=re.M))
    assert all(
        re.fullmatch(r"[\w-]+==[^\n]+(\n {4}--hash=sha256:[0-9a-f]{64}( \\)?)+\n?", entry)
        for entry in entries
    )
    names = {entry.partition("==")[0] for entry in entries}
    assert names >= {"numpy", "pillow", "psutil", "rich", "onnxruntime", "cuda-bindings"}
    if target.jetpack:
        assert f"\ncuda-bindings=={str(target.cuda).partition('.')[0]}." in text
        assert " ; " not in text, "pip would evaluate markers for the Python that runs it"


def test_a_wheel_that_is_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index").mkdir()
    for name, version in locked("tensorrt10").items():
        stem = f"{name.replace('-', '_')}-{version}"
        with zipfile.ZipFile(tmp_path / "index" / f"{stem}-py3-none-any.whl", "w") as archive:
            metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            archive.writestr(f"{stem}.dist-info/METADATA", metadata)
            archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr(f"{stem}.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    with pytest.raises(ExportError, match=r"HASHES(.|\n)*Expected sha256 "):
        _dependencies(TARGETS["tensorrt10"], tmp_path / "wheels")
    assert not list(tmp_path.glob("wheels/*"))
