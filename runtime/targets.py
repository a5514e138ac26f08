"""Targets that a model can be lowered for: the one meaning of `--target`.

A new target is one entry of `TARGETS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Precision = Literal["float32", "fp16", "int8"]
Typing = Literal["strong", "weak", "float32"]


@dataclass(frozen=True)
class Target:
    """A device with its software, or a runtime on any device.

    Attributes:
        description: one line of help.
        typing: `strong` if each tensor has the type that the graph gives it; `weak` if the graph is
            float32 and the builder chooses by its flags, except for pinned layers (TensorRT 8.x);
            `float32` if nothing computes in half precision.
        opset: opset of its models, at most what its parser is documented to read.
        functions: True if its parser reads model-local functions; else they are inlined.
        int8_constants: True if weights may be INT8. Else weights are float32 and quantized in the
            graph, which TensorRT folds when it builds (the parsers of 8.x refuse an INT8
            constant: "invalid weights type of Int8").
        tensorrt: TensorRT version, or the first of a range; None without TensorRT.
        compute_capabilities: those of its GPUs, such as `SM87`; empty if any will do.
        jetpack, python, cuda, glibc: versions on the device; None if no device is meant.
        memory_gib: memory of the smallest and the largest board, shared by CPU and GPU.
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
        """Requirements on a model: targets with equal forms read the same files."""
        return self.typing, self.opset, self.functions, self.int8_constants

    @property
    def is_weakly_typed(self) -> bool:
        """True if the builder chooses types, as `engines/weak_typing.py` handles."""
        return self.typing == "weak"

    @property
    def computes_half(self) -> bool:
        """True if anything computes in half precision."""
        return self.typing != "float32"

    @property
    def is_rtx(self) -> bool:
        """True for TensorRT for RTX, a library that builds without a GPU and has no trtexec."""
        return self.name == "tensorrt-rtx"

    @property
    def runs_runtime(self) -> bool:
        """True if its Python is new enough for `adadm.runtime`: 3.10."""
        return self.python is None or tuple(map(int, self.python.split("."))) >= (3, 10)


_MEMORY_GIB = {"Xavier": (8, 64), "Orin": (4, 64), "Thor": (64, 128)}

_GLIBC = {"3.8": "2.31", "3.10": "2.35", "3.12": "2.39"}
"""glibc by the Python version of Ubuntu 20.04, 22.04 and 24.04."""

_FORM_FOR_8: dict[str, Any] = {
    "typing": "weak",
    "opset": 17,
    "functions": False,
    "int8_constants": False,
}
"""The form that TensorRT 8.x reads, without the features of newer versions."""


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
"""Targets by name; a Jetson has SM72 (Xavier), SM87 (Orin) or SM110 (Thor)."""
