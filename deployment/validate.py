"""Certify a model or an engine against its original network, or check a certificate again.

Both networks run on photographs. The loss of each stage, artefacts, modulation
factors and layers are measured and compared with limits. The certificate (JSON) has the digests of
all files involved; its report (HTML) is for people. --certificate checks a certificate again. With
--against BUNDLE, the file of `verify.py --json` from a device becomes that device's certificate.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from adadm.calibration.quality.acceptance import verdict
from adadm.calibration.quality.ledger import print_ledger
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.deployment.certification.baseline import load_baseline
from adadm.deployment.certification.candidate import load_candidate
from adadm.deployment.certification.certificate import Certificate, read_certificate
from adadm.deployment.certification.certify import certify
from adadm.deployment.certification.consistency import inconsistencies
from adadm.deployment.certification.criteria import Check, read_thresholds
from adadm.deployment.certification.device_result import certify_on_device
from adadm.deployment.certification.recheck import Places, check_files, recheck
from adadm.deployment.certification.report.crops import Crop
from adadm.deployment.certification.report.page import page_path, write_certificate
from adadm.deployment.certification.running import add_backend
from adadm.deployment.signatures import add_sign, check_signature, signature_path, signer
from adadm.export.arguments import add_network_options, network_options
from adadm.runtime.arguments import Parser, Paths, add_accept, check_outputs
from adadm.runtime.bounds import positive, seconds
from adadm.runtime.bundles.bundle import MANIFEST, Bundle, could_be_imported
from adadm.runtime.errors import ParityError
from adadm.runtime.models.bundled import BUNDLED, bundled_path, companion_files
from adadm.runtime.progress import Bar
from adadm.runtime.tables import Console, make_table
from adadm.runtime.terminal import say

_PHOTOGRAPHS = 32


def main(argv: list[str]) -> None:
    """Parse the command line, certify or check, and print the result.

    Raises:
        ParityError: the model fails, or the certificate does not hold; all files are written.
    """
    arguments = _parse(argv)
    if arguments.verify_key is not None:
        _verify(Path(arguments.model), arguments.verify_key)
    elif arguments.certificate is not None:
        _recheck(arguments)
    elif arguments.model.endswith(".json"):
        _take_in(arguments)
    else:
        _certify(arguments)


def _certify(arguments: argparse.Namespace) -> None:
    bar = Bar("loading both")
    sign = signer(arguments.sign) if arguments.sign else None
    limits = read_thresholds(arguments.thresholds) if arguments.thresholds else {}
    with bar:
        reference = load_baseline(arguments.against, **network_options(arguments))
        model = load_candidate(
            bundled_path(arguments.model), reference, arguments.backend, trust=arguments.trust
        )
        images = CalibrationImages.of(
            arguments.images,
            reference.metadata.upscale if arguments.hr else 1,
            count=arguments.photographs,
            tile=model.tile,
            smallest_area=reference.metadata.smallest_area,
            progress=bar,
        )
    say(f"photographs: {images}")
    if reference.unlimited is None:
        say(
            "limits: not compared with the network without limits, since the modulators of the "
            "reference are inlined in an unknown form; give the checkpoint"
        )
    if not arguments.hr:
        say("PSNR-Y is not measured: it requires originals, given with --hr")
    with bar:
        certified = certify(
            reference,
            model,
            images,
            originals=arguments.hr,
            given=limits,
            accepted=arguments.accept,
            at=arguments.output,
            seconds=arguments.seconds,
            progress=bar,
        )
    printed = Console()
    print_ledger(certified.ledger, printed)
    _print_checks(certified.certificate.checks, printed)
    _finish(certified.certificate, certified.crops, arguments.output, sign)


def _take_in(arguments: argparse.Namespace) -> None:
    result, bundle, output = Path(arguments.model), arguments.against, arguments.output
    check_outputs(Bundle.open(bundle).read_files, [output, page_path(output)])
    sign = signer(arguments.sign) if arguments.sign else None
    certificate = certify_on_device(result, bundle, at=output, accepted=arguments.accept)
    _finish(certificate, (), output, sign)


def _finish(
    certificate: Certificate,
    crops: Sequence[Crop],
    output: Path,
    sign: Callable[[Path], object] | None,
) -> None:
    """Write all files, then raise an error if the model failed."""
    write_certificate(certificate, crops, output)
    if sign is not None:
        sign(output)
    say(f"wrote {output} and {page_path(output)}")
    if not certificate.passed:
        place = certificate.place
        reasons = [
            *certificate.failures,
            *([f"where it goes wrong: {place.text}"] if place else []),
        ]
        listed = "".join(f"\n  {reason}" for reason in reasons)
        raise ParityError(f"not certified:{listed}")
    say("certified")


def _recheck(arguments: argparse.Namespace) -> None:
    places = Places(
        Path(arguments.model) if arguments.model else None, arguments.against, arguments.images
    )
    with Bar("reading") as bar:
        again = recheck(arguments.certificate, places, network_options(arguments), progress=bar)
    for note in again.notes:
        say(f"note: {note}")
    if again.problems:
        listed = "".join(f"\n  {problem}" for problem in again.problems)
        raise ParityError(f"{arguments.certificate} does not hold:{listed}")
    if not again.certificate.passed:
        listed = "".join(f"\n  {failure}" for failure in again.certificate.failures)
        raise ParityError(
            f"{arguments.certificate} is unchanged, and records that the model failed:{listed}"
        )
    say(f"{arguments.certificate} holds: certified")


def _verify(path: Path, key: Path) -> None:
    """Check the signature of a bundle or a certificate, and all that it vouches for."""
    check_signature(path / MANIFEST if path.is_dir() else path, key)
    if path.is_dir():
        bundle = Bundle.open(path)
        unlisted = [name for name in bundle.unlisted_files() if could_be_imported(name)]
        problems = [f"{name} is missing or was changed" for name in bundle.changed_files()]
        problems += [
            f"{name} is not part of the bundle, and could be imported" for name in unlisted
        ]
    else:
        certificate = read_certificate(path)
        missing, problems = check_files(path, certificate)
        for file in missing:
            say(f"note: {file} is not here, and was not compared")
        problems += [*inconsistencies(certificate), *certificate.failures]
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise ParityError(f"{path} is signed with the key of {key}, but does not hold:{listed}")
    say(f"{path} holds: signed with the key of {key}")


def _print_checks(checks: Sequence[Check], console: Console) -> None:
    """Print each figure with its limit."""
    headers = ("check", "figure", "limit", "worst on", "")
    table = make_table("Checks", headers, left=("check", ""), fold=("worst on",))
    for row in checks:
        table.add_row(
            row.name,
            f"{row.figure:.3g} {row.unit}".rstrip(),
            f"{'>=' if row.at_least else '<='} {row.limit:.4g}",
            row.where,
            verdict(passed=row.passed, accepted=row.accepted),
        )
    console.print(table)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="adadm validate", description=__doc__)
    paths = Paths()
    parser.add_argument(
        "model",
        type=paths.model,
        nargs="?",
        metavar="MODEL|ENGINE|RESULT.json",
        help=f"an ONNX model, {', '.join(BUNDLED)} for a bundled one, an engine, or the file of "
        "verify.py --json",
    )
    parser.add_argument(
        "--against",
        type=paths.read,
        metavar="CHECKPOINT|MODEL|BUNDLE",
        help="the checkpoint, or an ONNX model of the same network; for RESULT.json: its bundle",
    )
    parser.add_argument(
        "--images", type=paths.read, nargs="+", metavar="PATH", help="photographs, files or folders"
    )
    parser.add_argument(
        "--hr",
        action="store_true",
        help="the photographs are originals: reduce them, and measure PSNR-Y against them; "
        "default: they are the model's inputs",
    )
    parser.add_argument(
        "--photographs",
        type=positive,
        default=_PHOTOGRAPHS,
        metavar="N",
        help=f"number of photographs, chosen by their content; default: {_PHOTOGRAPHS}",
    )
    parser.add_argument(
        "--thresholds",
        type=paths.read,
        metavar="FILE",
        help="JSON file of limits by name; names: docs/explanation/validation.md",
    )
    add_backend(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=paths.written_as(".json"),
        metavar="CERTIFICATE.json",
        help="certificate to write; default: beside the model",
    )
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=3.0,
        metavar="S",
        help="time for speed runs, s; default: 3",
    )
    parser.add_argument("--certificate", type=paths.read, help="certificate to check again")
    parser.add_argument(
        "--trust", action="store_true", help="run an engine without a manifest, which is code"
    )
    add_sign(parser, paths)
    parser.add_argument(
        "--verify-key",
        type=paths.read_file,
        metavar="PUBLIC.pem",
        help="check the signature of a bundle or a certificate, given in place of the model, and "
        "the files that it names",
    )
    add_accept(parser)
    add_network_options(parser)
    arguments = parser.parse_args(argv)
    is_device = arguments.model is not None and arguments.model.endswith(".json")
    if arguments.verify_key is not None:
        if arguments.model is None or arguments.certificate is not None:
            parser.error("--verify-key requires a bundle or a certificate in place of the model")
        return arguments
    if arguments.accept and arguments.certificate is not None:
        parser.error("--accept is for certifying; a certificate has its own names")
    if arguments.certificate is None:
        if arguments.model is None or arguments.against is None:
            parser.error("give a model and --against its original network, or --certificate")
        if not arguments.images and not is_device:
            parser.error("certifying a model requires photographs: give --images")
        default = companion_files(arguments.model)[0].with_suffix(".certificate.json")
        arguments.output = arguments.output or paths.written(default)
        signed = [signature_path(arguments.output)] if arguments.sign else []
        paths.check(writes=[page_path(arguments.output), *signed])
    return arguments
