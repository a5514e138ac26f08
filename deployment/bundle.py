"""Make a folder from which a device without network access builds and verifies engines.

The folder has the model in the form of the target's TensorRT, a build script,
reference inputs and outputs, and the wheels that the device needs.
"""

from __future__ import annotations

import argparse

from adadm.deployment.bundling.make_bundle import make_bundle
from adadm.deployment.signatures import add_sign, signer
from adadm.runtime.arguments import Parser, Paths, add_target
from adadm.runtime.engines.size_arguments import add_sizes, read_sizes
from adadm.runtime.models.bundled import BUNDLED, bundled_path
from adadm.runtime.progress import Bar
from adadm.runtime.targets import TARGETS
from adadm.runtime.terminal import say


def main(argv: list[str]) -> None:
    """Parse the command line, make the folder, and print a summary."""
    arguments = _parse(argv)
    with Bar() as bar:
        manifest = make_bundle(
            bundled_path(arguments.model),
            TARGETS[arguments.target],
            read_sizes(arguments),
            arguments.output,
            wheels=arguments.wheels,
            workspace_bytes=arguments.workspace,
            sign=signer(arguments.sign) if arguments.sign else None,
            progress=bar,
        )
    size = sum(path.stat().st_size for path in arguments.output.rglob("*") if path.is_file())
    say(
        f"wrote {arguments.output}: {len(manifest.files) + 1} files, {size / 1e6:.1f} MB, "
        f"{manifest.precision} for {TARGETS[arguments.target].description}"
    )
    say("on the device: sh build.sh && python3 verify.py --json result.json")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="adadm bundle", description=__doc__)
    paths = Paths()
    parser.add_argument(
        "model",
        type=paths.model,
        metavar="MODEL.onnx",
        help=f"an ONNX model, or a bundled one: {', '.join(BUNDLED)}",
    )
    engines = {n: t for n, t in TARGETS.items() if t.tensorrt is not None and not t.is_rtx}
    add_target(parser, engines)
    parser.add_argument("-o", "--output", type=paths.written, required=True, metavar="DIR")
    add_sizes(parser)
    parser.add_argument(
        "--no-wheels",
        dest="wheels",
        action="store_false",
        help="leave out the wheels; fetching them needs network access",
    )
    add_sign(parser, paths)
    arguments = parser.parse_args(argv)
    paths.check()
    return arguments
