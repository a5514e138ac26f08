"""What a verb's processes do besides: nothing calls home, and no file of a folder is code.

Each verb runs in processes of its own as a user starts it, without the variables of CI, under which
some libraries keep quiet, and in a folder full of modules that have the names of libraries.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import onnx
import pytest
from PIL import Image

from _support.bundles import bundled, write_bundle
from _support.exports import exported
from _support.homes import strangers_in
from _support.keys import write_keys
from _support.network_watch import NetworkWatch
from _support.scripts import ROOT
from _support.slow import slow_unless
from _support.toy_networks import enlarging_edsr
from adadm.deployment.bundling.wheels import _pip
from adadm.deployment.signatures import signer
from adadm.export import Options, save_checkpoint
from adadm.export.proof.sample_photographs import photographs
from adadm.runtime.bundles.bundle import MANIFEST
from adadm.runtime.cli import VERBS
from adadm.runtime.python_process import python_command

TRAPS = (
    *("argparse", "hashlib", "json", "numpy", "onnx", "onnxruntime", "openvino", "pip", "platform"),
    *("psutil", "random", "rich", "runpy", "shutil", "struct", "tempfile", "torch", "zipfile"),
)
TRAP = "import os\nopen(os.environ['TRAP_LOG'], 'a').write(__name__ + ' ')\n"
CI = ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "TEAMCITY_VERSION", "TF_BUILD", "TRAVIS")

MODEL = str(resources.files("adadm.runtime.models") / "edsr_adadm_x2.onnx")
CHECKPOINT = str(ROOT / "export" / "checkpoints" / "edsr_adadm_x2.safetensors")
ADADM = str(Path(sys.executable).with_name("adadm"))
JETSON = ("--target", "jetson-orin-jp62", "--opt", "1x40x48", "--no-wheels")
COMMANDS: dict[str, tuple[str, ...]] = {
    "export": (ADADM, "export", "small.safetensors", "-o", "exported.onnx"),
    "quantize": (
        *(ADADM, "quantize", "small.safetensors", "--images", "photos", "--precision", "fp16"),
        *("-o", "lowered.onnx", "--accept", "worse-than-bicubic"),
    ),
    "validate": (
        *(ADADM, "validate", MODEL, "--against", MODEL, "--images", "photos", "-o", "c.json"),
        *("--backend", "openvino", "--seconds", "0.1"),
    ),
    "inspect": (ADADM, "inspect", "small.safetensors", "-o", "inspected.svg"),
    "ship": (ADADM, "ship", CHECKPOINT, "--images", "photos", "--target", "cpu", "-o", "shipped"),
    "build": (ADADM, "build", MODEL, "--target", "tensorrt-rtx", "-o", "x2.engine"),
    "bundle": (ADADM, "bundle", MODEL, *JETSON, "-o", "made", "--sign", "key.pem"),
    "validate --verify-key": (ADADM, "validate", "signed", "--verify-key", "public.pem"),
    "upscale": (ADADM, "upscale", "photos/coffee.png", "-o", "large.png"),
    "doctor": (ADADM, "doctor"),
    "camera.py": (
        *(sys.executable, str(ROOT / "runtime" / "camera.py"), "photos", "--model", "uint8.onnx"),
        *("--backend", "openvino", "-o", "frames", "--accept"),  # of random weights
    ),
    "verify.py": (sys.executable, "bundle/verify.py", "--backend", "cpu", "--seconds", "0.1"),
    "verify.py --help, of JetPack 5": (sys.executable, "old/verify.py", "--help"),
}


# urllib3, which model-signing imports, asks by a socket that it binds to ::1 whether there is IPv6.
LOCAL = dict.fromkeys(("bundle", "validate --verify-key"), ("socket inet6",))


def set_traps(folder: Path) -> None:
    for name in TRAPS:
        (folder / f"{name}.py").write_text(TRAP)
    (folder / "matplotlibrc").write_text("text.usetex: True\n")  # runs latex


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, with traps and what the verbs read."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "photos").mkdir()
    for name, photo in photographs().items():
        Image.fromarray(photo[80:176, 80:176]).save(folder / "photos" / f"{name}.png")
    save_checkpoint(folder / "small.safetensors", enlarging_edsr())
    onnx.save(exported("edsr", 2, Options(io="uint8"))[1], folder / "uint8.onnx")
    write_bundle(folder / "bundle", {"whole": bundled()})
    write_keys(folder)
    signer(folder / "key.pem")(write_bundle(folder / "signed", {"whole": bundled()}) / MANIFEST)
    (folder / "old").mkdir()
    scripts = resources.files("adadm.deployment.bundling.device_files")
    shutil.copy(str(scripts / "verify.py"), folder / "bundle")
    shutil.copy(str(scripts / "compare_outputs.py"), folder / "old" / "verify.py")
    for place in (folder, folder / "bundle", folder / "old"):
        set_traps(place)
    return folder


EVERY_VERB = """
import contextlib
from adadm.runtime import camera, cli
with contextlib.suppress(SystemExit):
    camera.main(["--help"])
for verb in cli.VERBS:
    with contextlib.suppress(SystemExit):
        cli.main([verb, "--help"])
"""
COMMANDS["the imports of every verb"] = (sys.executable, "-P", "-c", EVERY_VERB)
QUICK = ("the imports of every verb", "upscale", "verify.py")


@pytest.mark.parametrize("name", slow_unless(lambda name: name.startswith(QUICK), COMMANDS))
def test_a_verb_asks_no_network_and_runs_no_file_of_a_folder(
    name: str, folder: Path, tmp_path: Path
) -> None:
    watch, home, traps = NetworkWatch(tmp_path), tmp_path / "home", tmp_path / "traps.log"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in CI}
    environment |= {"HOME": str(home), "TRAP_LOG": str(traps), **watch.environment}
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(
        COMMANDS[name], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if name == "verify.py":  # which names the traps beside it
        assert done.returncode == 1 and "json.py is not part of the bundle" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
    assert [call for call in watch.seen if call not in LOCAL.get(name, ())] == []
    assert not traps.exists(), traps.read_text()
    assert strangers_in(home) == []


def test_every_verb_is_watched() -> None:
    assert set(VERBS) <= set(COMMANDS)


def test_the_watch_sees_what_calls_home(tmp_path: Path) -> None:
    """OpenVINO and ONNX Runtime do, as they come."""
    watch = NetworkWatch(tmp_path)
    program = "import openvino, socket\nsocket.socket()"
    environment = {key: value for key, value in os.environ.items() if key not in CI}
    environment |= {"HOME": str(tmp_path), **watch.environment}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert b"PermissionError" in done.stderr
    assert "socket inet" in watch.seen
    assert any(line.startswith("getaddrinfo www.") for line in watch.seen)


def in_traps(command: Sequence[str], folder: Path) -> Path:
    """Run a command in a folder of traps; returns where they would have left their mark."""
    set_traps(folder)
    log = folder / "traps.log"
    environment = {**os.environ, "TRAP_LOG": str(log)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return log


def test_the_traps_work(tmp_path: Path) -> None:
    assert "__main__" in in_traps([sys.executable, "-m", "pip"], tmp_path).read_text()


def test_a_module_in_a_process_of_its_own_is_the_installed_one(tmp_path: Path) -> None:
    assert not in_traps(python_command("pip", "--version"), tmp_path).exists()


def test_pip_is_the_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_traps(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAP_LOG", str(tmp_path / "traps.log"))
    _pip(["--version"])
    assert not (tmp_path / "traps.log").exists()
