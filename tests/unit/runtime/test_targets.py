from __future__ import annotations

import pytest

from adadm.runtime.targets import TARGETS, Target

targets = pytest.mark.parametrize("found", TARGETS.values(), ids=TARGETS)


def test_the_names_are_those_that_users_know() -> None:
    assert " ".join(TARGETS) == (
        "jetson-xavier-jp51 jetson-orin-jp51 jetson-orin-jp60 jetson-orin-jp62 jetson-orin-jp72 "
        "jetson-thor-jp71 jetson-thor-jp72 tensorrt10 tensorrt11 tensorrt-rtx cpu"
    )


@targets
def test_only_tensorrt_8_chooses_types_by_itself(found: Target) -> None:
    """It knows neither strong typing, nor functions, nor constants of INT8, nor FP16 scales."""
    old = (found.tensorrt or "").startswith("8.")
    assert (found.typing == "weak") == old
    assert found.functions == found.int8_constants == (not old)
    assert found.opset == (17 if old else 19)


@targets
def test_the_cpu_alone_has_no_tensorrt(found: Target) -> None:
    assert (found.tensorrt is None) == (found.typing == "float32") == (found.name == "cpu")


@targets
def test_devices(found: Target) -> None:
    boards = {"xavier": "SM72", "orin": "SM87", "thor": "SM110"}
    system, board, jetpack = (*found.name.split("-"), "", "")[:3]
    if system != "jetson":
        assert found.jetpack is found.python is None
        return
    assert found.compute_capabilities == (boards[board],)
    assert found.jetpack is not None and jetpack == f"jp{found.jetpack.replace('.', '')}"
    pythons = {"8.5": "3.8", "8.6": "3.10", "10.3": "3.10", "10.13": "3.12", "10.16": "3.12"}
    assert found.python == pythons[str(found.tensorrt)]
    for said in (found.jetpack, str(found.tensorrt), board.title()):
        assert said in found.description


def test_tensorrt_for_rtx_knows_the_capabilities() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    known = {name for name in dir(trt.ComputeCapability) if name.startswith("SM")}
    assert known.issuperset(TARGETS["tensorrt-rtx"].compute_capabilities)
