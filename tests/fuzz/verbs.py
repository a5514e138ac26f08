"""Every verb that writes, as a user starts it, on tiny networks.

Each runs in a working folder of its own: what it reads lies in `in`, what it writes in `out`; its
home is `home`, its temporary files lie in `tmp`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import onnx
import torch
from PIL import Image
from safetensors.numpy import load_file

from _support.kept import kept
from _support.scripts import ROOT
from _support.toy_networks import enlarging_edsr
from adadm.export import save_checkpoint, to_onnx
from adadm.export.limits import set_limits
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.engines.manifest import read_manifest

_ADADM = str(Path(sys.executable).with_name("adadm"))
_UNTRAINED = ("--accept", "worse-than-bicubic")
_SECONDS = 900.0
_OF_FOLDERS = ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR")
"""Variables that lead out of a home."""


@dataclass(frozen=True)
class Verb:
    """A command, with paths relative to its working folder.

    Attributes:
        kills: of 200 in all.
        disks: sizes of disks, of 60 in all.
        replaces: whether it runs again where its output is whole; else it says that it is there.
        varying: patterns of files of which each run writes another content: times are in them.
    """

    arguments: tuple[str, ...]
    kills: int
    disks: int
    varying: tuple[str, ...] = ()
    replaces: bool = True


VERBS: Mapping[str, Verb] = {
    "export": Verb((_ADADM, "export", "in/small.safetensors", "-o", "out/x.onnx"), 20, 6),
    "quantize": Verb(
        (
            *(_ADADM, "quantize", "in/small.safetensors", "--images", "in/photos"),
            *("--precision", "int8", "--target", "cpu", "-o", "out/x.onnx", *_UNTRAINED),
        ),
        *(15, 6),
    ),
    "build": Verb(
        (_ADADM, "build", "in/x.onnx", "--target", "tensorrt-rtx", "-o", "out/x.engine"),
        *(50, 10),
        varying=("*.engine", "*.engine.json"),  # the builder has two variants of this one
    ),
    "upscale": Verb(
        (
            *(_ADADM, "upscale", "in/pictures", "--model", "in/u8.onnx", "-o", "out", "--accept"),
            *("--backend", "openvino"),  # by times, each run may choose another
        ),
        *(50, 15),
    ),
    "bundle": Verb(
        (
            *(_ADADM, "bundle", "in/x.onnx", "--target", "jetson-orin-jp62"),
            *("--opt", "1x40x48", "--no-wheels", "-o", "out/made"),
        ),
        *(20, 8),
        replaces=False,
    ),
    "validate": Verb(
        (
            *(_ADADM, "validate", "in/x.onnx", "--against", "in/small.safetensors"),
            *("--images", "in/photos", "--seconds", "0.05", "-o", "out/c.json"),
        ),
        *(10, 4),
        varying=("c.json", "c.html"),
    ),
    "inspect": Verb((_ADADM, "inspect", "in/small.safetensors", "-o", "out/x.svg"), 5, 3),
    "train": Verb(
        (
            *(sys.executable, str(ROOT / "scripts" / "train.py"), "--images", "in/photos"),
            *("--validation", "in/photos/chelsea.png", "-o", "out/x.safetensors", "--steps", "60"),
            *("--set", "blocks=1", "features=4", "--patch", "8", "--batch", "2", "--warmup", "2"),
            *("--save-every-s", "0", "--device", "cpu", "--seed", "1"),
        ),
        *(24, 5),
    ),
    "ship": Verb(
        (
            *(_ADADM, "ship", "in/small.safetensors", "--images", "in/photos", "--target", "cpu"),
            *("--no-wheels", "-o", "out", *_UNTRAINED),
        ),
        *(6, 3),
        varying=("*.certificate.*", "steps.json", "summary.json"),
    ),
}


class Run:
    """A verb in a working folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.verb, self.name, self.folder = VERBS[name], name, folder
        for place in ("out", "home", "tmp"):
            (folder / place).mkdir(parents=True)
        shutil.copytree(inputs(), folder / "in")

    def start(
        self, before: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start the verb in a process group of its own, with `before` in front of its command."""
        place = {"HOME": "home", "TMPDIR": "tmp"}
        keep = {name: value for name, value in os.environ.items() if name not in _OF_FOLDERS}
        return subprocess.Popen(
            [*before, *self.verb.arguments],
            cwd=self.folder,
            env={
                **keep,
                **{name: str(self.folder / folder) for name, folder in place.items()},
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Exit code and what was said on stderr."""
        _, said = process.communicate(timeout=_SECONDS)
        return process.returncode, said

    def outputs(self, place: str = "out") -> dict[str, Path]:
        """Files that a user sees."""
        root = self.folder / place
        return {
            path.relative_to(root).as_posix(): path
            for path in sorted(root.rglob("*"))
            if path.is_file() and not any(part[0] == "." for part in path.relative_to(root).parts)
        }

    def leftovers(self) -> list[str]:
        """Hidden files and folders in the output folder, and anything in the temporary one."""
        hidden = list((self.folder / "out").rglob(".*"))
        return [
            str(p.relative_to(self.folder)) for p in [*hidden, *(self.folder / "tmp").iterdir()]
        ]

    def problems(
        self, expected: Mapping[str, str], *, all_there: bool, place: str = "out"
    ) -> list[str]:
        """What is wrong with the outputs, against those of a run that nothing disturbed."""
        outputs, problems = self.outputs(place), []
        for name, path in outputs.items():
            if (problem := damage(path)) is not None:
                problems.append(f"{name} is not whole: {problem}")
            elif name in expected and not self.varies(name) and content(path) != expected[name]:
                problems.append(f"{name} differs")
        if all_there and set(outputs) != set(expected):
            problems.append(f"expected {sorted(expected)}, got {sorted(outputs)}")
        return problems

    def varies(self, name: str) -> bool:
        """Whether each run writes another content into a file."""
        return any(fnmatch(name, pattern) for pattern in self.verb.varying)


def content(path: Path) -> str:
    """Digest of a file without what each run measures anew."""
    data = path.read_bytes()
    if path.suffix == ".onnx":
        model = onnx.load_from_string(data)
        kept_entries = [entry for entry in model.metadata_props if entry.key != "adadm.memory"]
        del model.metadata_props[:]
        model.metadata_props.extend(kept_entries)
        data = model.SerializeToString(deterministic=True)
    return hashlib.sha256(data).hexdigest()


def damage(path: Path) -> str | None:
    """Why a file is not whole; None if it is, as far as its format tells."""
    try:
        match path.suffix:
            case ".json":
                json.loads(path.read_text())
            case ".onnx":
                onnx.checker.check_model(onnx.load(path), full_check=False)
            case ".safetensors":
                load_file(path)
            case ".resume":
                torch.load(path, weights_only=True)
            case ".engine":
                if not path.with_name(f"{path.name}.json").exists():
                    return None  # a manifest follows its engine
                read_manifest(path)
            case ".svg" | ".html":
                if not re.search(r"</(svg|html)>\s*$", path.read_text()):
                    return "its end is missing"
            case ".png" | ".jpg" | ".webp" | ".tif" | ".bmp":
                with Image.open(path) as image:
                    image.load()
    except Exception as error:  # noqa: BLE001 - of six libraries
        return f"{type(error).__name__}: {error}"
    return None


def inputs() -> Path:
    """What the verbs read, made once."""
    return kept(_make_inputs, Path(__file__).read_text())


def _make_inputs(folder: Path) -> None:
    (folder / "photos").mkdir()
    (folder / "pictures").mkdir()
    suffixes = iter((".png", ".jpg", ".webp", ".tif"))
    for name, photo in photographs().items():
        image = Image.fromarray(photo[80:176, 80:176])
        image.save(folder / "photos" / f"{name}.png")
        image.save(folder / "pictures" / f"{name}{next(suffixes)}")
        image.crop((3, 5, 50, 60)).save(folder / "pictures" / f"{name}-part.bmp")
    network = enlarging_edsr()
    set_limits(network, 3, {})  # no photograph reaches them
    checkpoint = folder / "small.safetensors"
    save_checkpoint(checkpoint, network)
    with redirect_stdout(io.StringIO()):
        to_onnx.main([str(checkpoint), "-o", str(folder / "x.onnx")])
        to_onnx.main([str(checkpoint), "--io", "uint8", "-o", str(folder / "u8.onnx")])
