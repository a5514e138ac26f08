"""What a model can be lowered for: the one meaning of `--target`.

A new target is one entry of `TARGETS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Precision = Literal["float32", "fp16", "int8"]
Typing = Literal["strong", "weak", "float32"]


@dataclass(frozen=True)
class Target:
    """A device with its software, or a runtime on whatever device.

    Attributes:
        description: one line of help.
        typing: `strong` where each tensor has the type that the graph gives it; `weak` where the
            graph is float32 and the builder chooses by its flags, but for layers that are pinned
            (TensorRT 8.x); `float32` where nothing computes in half precision.
        opset: of its models, at most what its parser is documented to read.
        functions: whether model-local functions are understood; else they are inlined.
        int8_constants: whether weights may be INT8; else they are float32 and quantized in the
            graph, which TensorRT does when it builds (the parsers of 8.x refuse a constant of
            INT8: "invalid weights type of Int8").
        tensorrt: its version, or the first of those that are meant; None without.
        compute_capabilities: of its GPUs, such as `SM87`; empty where any will do.
        jetpack, python, cuda, glibc: what the device has; None where no device is meant.
        memory_gib: of its smallest and its largest board, which CPU and GPU share.
    """

    name: str
    description: str
    typing: Typing = "strong"
    opset: int = 19
    functions: bool = True
    int8_constants: bool = True
    tensorrt: str | None = None
    compute_capabilities: tuple[str, ...] = ()
    jetpack: str | None = None
    python: str | None = None
    cuda: str | None = None
    glibc: str | None = None
    memory_gib: tuple[int, int] | None = None

    @property
    def form(self) -> tuple[Typing, int, bool, bool]:
        """What a model must be: targets that have this in common read the same files."""
        return self.typing, self.opset, self.functions, self.int8_constants

    @property
    def is_weakly_typed(self) -> bool:
        """Whether the builder chooses types; what that takes is in `engines/weak_typing.py`."""
        return self.typing == "weak"

    @property
    def computes_half(self) -> bool:
        """Whether anything computes in half precision."""
        return self.typing != "float32"

    @property
    def is_rtx(self) -> bool:
        """TensorRT for RTX: another library, that builds without the GPU and has no trtexec."""
        return self.name == "tensorrt-rtx"

    @property
    def runs_runtime(self) -> bool:
        """Whether its Python is new enough for `adadm.runtime`, which wants 3.10."""
        return self.python is None or tuple(map(int, self.python.split("."))) >= (3, 10)


_MEMORY_GIB = {"Xavier": (8, 64), "Orin": (4, 64), "Thor": (64, 128)}

_GLIBC = {"3.8": "2.31", "3.10": "2.35", "3.12": "2.39"}
"""By the Python of Ubuntu 20.04, 22.04 and 24.04."""

_FORM_FOR_8: dict[str, Any] = {
    "typing": "weak",
    "opset": 17,
    "functions": False,
    "int8_constants": False,
}
"""What TensorRT 8.x reads: what the newer ones have is not there yet."""


def _jetson(  # noqa: PLR0917 - a row of a table
    name: str, board: str, capability: str, jetpack: str, tensorrt: str, cuda: str, python: str
) -> Target:
    return Target(
        name=name,
        description=f"Jetson {board}, JetPack {jetpack}, TensorRT {tensorrt}",
        tensorrt=tensorrt,
        compute_capabilities=(capability,),
        jetpack=jetpack,
        python=python,
        cuda=cuda,
        glibc=_GLIBC[python],
        memory_gib=_MEMORY_GIB[board],
        **(_FORM_FOR_8 if tensorrt.startswith("8.") else {}),
    )


TARGETS: dict[str, Target] = {
    found.name: found
    for found in (
        _jetson("jetson-xavier-jp51", "Xavier", "SM72", "5.1", "8.5", "11.4", "3.8"),
        _jetson("jetson-orin-jp51", "Orin", "SM87", "5.1", "8.5", "11.4", "3.8"),
        _jetson("jetson-orin-jp60", "Orin", "SM87", "6.0", "8.6", "12.2", "3.10"),
        _jetson("jetson-orin-jp62", "Orin", "SM87", "6.2", "10.3", "12.6", "3.10"),
        _jetson("jetson-orin-jp72", "Orin", "SM87", "7.2", "10.16", "13.2", "3.12"),
        _jetson("jetson-thor-jp71", "Thor", "SM110", "7.1", "10.13", "13.0", "3.12"),
        _jetson("jetson-thor-jp72", "Thor", "SM110", "7.2", "10.16", "13.2", "3.12"),
        Target("tensorrt10", "TensorRT 10.3 or later, any GPU", tensorrt="10.3"),
        Target("tensorrt11", "TensorRT 11, any GPU", tensorrt="11.0"),
        Target(
            "tensorrt-rtx",
            "TensorRT for RTX",
            tensorrt="1.2",
            compute_capabilities=("SM75", "SM80", "SM86", "SM89", "SM120", "SM121"),
        ),
        Target("cpu", "ONNX Runtime or OpenVINO on a CPU", "float32"),
    )
}
"""By name; each Jetson has SM72 (Xavier), SM87 (Orin) or SM110 (Thor)."""
