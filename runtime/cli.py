"""The command `adadm VERB ...`: a table of verbs, imported when they are called."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from adadm.runtime.errors import AdadmError, MissingDependencyError


class Verb(NamedTuple):
    """A module with `main(argv) -> None`, the extras that it needs, and one line of help."""

    module: str
    extra: str
    summary: str


_TABLE = """
export    export.to_onnx  export,cpu  convert a trained checkpoint to an exact ONNX model
quantize  calibration.quantize  quantize  lower a network to FP16 or INT8, under a budget in dB
validate  deployment.validate  validate  certify that a deployed model matches its reference
inspect   deployment.inspect_network  quantize  show what will cost quality in deployment
ship      deployment.ship  validate  do all of it, from a checkpoint to certified bundles
build     runtime.build_engine  rtx  build a TensorRT engine, with a manifest of its origin
bundle    deployment.bundle  quantize  pack a folder that a Jetson builds and checks by itself
upscale   runtime.upscale  photos,cpu  upscale photographs of any size, whole or in tiles
doctor    runtime.doctor  cpu  report what works on this machine, and how to repair the rest
"""
_ROWS = (line.split(maxsplit=3) for line in _TABLE.strip().splitlines())

VERBS = {name: Verb(f"adadm.{module}", *rest) for name, module, *rest in _ROWS}

DONE, FAILED, USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run `adadm` and return the exit code: 0 done, 1 failed, 2 usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return DONE if arguments else USAGE
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"adadm {version('adadm-deploy')}")
        return DONE
    name, *rest = arguments
    if name not in VERBS:
        print(f"adadm: expected a verb ({', '.join(VERBS)}), got {name!r}", file=sys.stderr)
        return USAGE
    verb = VERBS[name]

    def load_and_run(arguments: list[str]) -> None:
        try:
            module = importlib.import_module(verb.module)
        except ModuleNotFoundError as error:
            missing = (error.name or "").split(".")[0]
            if missing in ("", "adadm"):  # our mistake, not the installation's
                raise
            raise MissingDependencyError(missing, verb.extra) from error
        module.main(arguments)

    return run(f"adadm {name}", load_and_run, rest)


def run(program: str, verb: Callable[[list[str]], None], arguments: list[str]) -> int:
    """Run a verb; turn its exception into an exit code and a message on stderr."""
    try:
        verb(arguments)
        _flush_output()
        return DONE
    except (AdadmError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
    return FAILED


def _flush_output() -> None:
    """Flush stdout, or fail. At exit, Python would only warn of output that it cannot write.

    Raises:
        OSError: the output cannot be written, as on a full disk.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # else Python tries again at exit
        raise OSError(error.errno, error.strerror, "standard output") from error


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items())
    return (
        "usage: adadm VERB ...\n\n"
        "Deploy super-resolution networks with AdaDM: exact ONNX, TensorRT engines.\n\n"
        f"verbs:\n{verbs}\n\n"
        "  adadm VERB --help   the options of a verb\n"
        "  adadm --version     the version"
    )
