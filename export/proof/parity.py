"""Check that an exported model computes what PyTorch computes.

Parity does not imply accuracy: a wrong guess of `res_scale` or `rgb_range` is shared by both sides,
so parity holds although the pictures are bad. `export.proof.accuracy` measures that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from adadm.export.networks import Network
from adadm.export.operators.sparse_attention import CODES_OUTPUT
from adadm.export.proof.cases import Shape, parity_cases
from adadm.export.proof.pytorch import HashCodes, attention_rounds, run_network, run_with_codes
from adadm.runtime.errors import ParityError
from adadm.runtime.images.arrays import Batch, batch_from_image, image_from_batch
from adadm.runtime.images.compare import Comparison, compare
from adadm.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

LARGEST_RELATIVE_ERROR = 3e-5
"""Limit relative to the output's peak: float32 rounds by 6e-8 a step, in some hundred steps."""


@dataclass(frozen=True)
class Hashing:
    """Comparison of the hash codes of one case with PyTorch's.

    Attributes:
        codes: number of codes over all rounds.
        differing: number of codes that differ, each by a rounding.
        free_psnr_db: PSNR between the outputs if each backend uses its own codes, dB.
    """

    name: str
    codes: int
    differing: int
    free_psnr_db: float


def check_parity(
    network: Network,
    model: onnx.ModelProto,
    static: Shape | None = None,
    std_of: Callable[[Batch], Batch] | None = None,
) -> tuple[list[Comparison], list[Hashing]]:
    """Compare a model on ONNX Runtime with its network on photographs and hard cases.

    The hash codes of sparse attention jump where two buckets are equally near. A rounding can then
    move a pixel to another chunk and change the output by more than a rounding. So PyTorch is
    given ONNX Runtime's codes, each of which must be a nearest bucket within a rounding, and the
    outputs must agree as usual.

    Args:
        static: N, H and W of a model of fixed size.
        std_of: computes the model's input `std` from `lr`, if it has one.

    Returns:
        The comparison of each case; and that of its hash codes, for a network with attention.

    Raises:
        ParityError: shapes differ, a value is not finite, an error exceeds
            `LARGEST_RELATIVE_ERROR` of the largest output of all cases (of `sr`, and of each
            modulation factor that the model returns), or a hash code is off by more than that
            share of the largest projection.
    """
    session, codes_of = session_with_codes(network, model)
    results, hashing = [], []
    factors_of: dict[str, list[tuple[Batch, Batch]]] = defaultdict(list)
    for name, lr in parity_cases(network, static):
        outputs = session.run({"lr": lr, "std": std_of(lr)} if std_of else {"lr": lr})
        sr = outputs.pop("sr")
        codes = {module: outputs.pop(value) for module, value in codes_of.items()}
        expected, factors, rounds = run_with_codes(network, lr, codes)
        if not np.isfinite(expected).all():
            raise ParityError(
                f"PyTorch's own output of the case {name} is not finite: the network diverges, or "
                "its hyper-parameters differ from those of training; nothing was written"
            )
        border_px = 4 * network.upscale
        results.append(compare(name, sr, expected, border_px))
        for index, output in enumerate(outputs):
            factors_of[output].append((outputs[output], factors[index]))
        if rounds:
            _check_codes(name, rounds)
            free = compare(name, sr, run_network(network, lr), border_px)
            pixels, differing = sum(r.pixels for r in rounds), sum(r.differing for r in rounds)
            hashing.append(Hashing(name, pixels, differing, free.psnr_db))
    for output, pairs in factors_of.items():
        _check_factor(output, [result.name for result in results], pairs)
    peak = max(result.peak for result in results)
    misses = [r for r in results if r.largest_error > LARGEST_RELATIVE_ERROR * peak]
    if misses:
        listed = "\n".join(f"  {miss}" for miss in misses)
        raise ParityError(
            f"ONNX Runtime and PyTorch differ by more than {LARGEST_RELATIVE_ERROR:g} of the peak "
            f"{peak:.4g} in {len(misses)} of {len(results)} cases; nothing was written:\n{listed}"
        )
    return results, hashing


def check_image_io(
    network: Network, images: onnx.ModelProto, batches: onnx.ModelProto, static: Shape | None = None
) -> None:
    """Check that a model for images returns exactly the grey levels of the one for batches.

    Args:
        images: model that reads and returns uint8 (N, H, W, 3).
        batches: the same model for float32 (N, 3, H, W), with conversions by `runtime.images`.

    Raises:
        ParityError: a pixel differs.
    """
    session, reference = (OnnxRuntimeSession(m.SerializeToString()) for m in (images, batches))
    white = network.rgb_range
    for name, lr in parity_cases(network, static):
        pictures = [image_from_batch(one[None], white) for one in lr]
        fed = np.concatenate([batch_from_image(picture, white) for picture in pictures])
        expected = [image_from_batch(one[None], white) for one in reference.run({"lr": fed})["sr"]]
        sr = session.run({"lr": np.stack(pictures)})["sr"]
        if differing := int((sr != np.stack(expected)).sum()):
            raise ParityError(
                f"{name}: with --io uint8, {differing} of {sr.size} values differ from the "
                "conversion outside the graph; nothing was written"
            )


def _check_factor(output: str, cases: list[str], pairs: list[tuple[Batch, Batch]]) -> None:
    """Check one factor relative to its largest value over all cases, as for `sr`.

    Not relative to itself: a shifted trunk resolves its std to a rounding of `center`. On a flat
    image that is some 1e-5 of the std, but factor and residual are small there.
    """
    allowed = LARGEST_RELATIVE_ERROR * max(np.abs(expected).max() for _, expected in pairs)
    for case, (factor, expected) in zip(cases, pairs, strict=True):
        if not (np.abs(factor - expected) <= allowed).all():
            raise ParityError(
                f"{output} of {case}: expected {expected.ravel()} as in PyTorch, got "
                f"{factor.ravel()} in ONNX Runtime (limit {allowed:.2g}); nothing was written"
            )


def _check_codes(case: str, rounds: list[HashCodes]) -> None:
    for result in rounds:
        if not result.largest_gap <= LARGEST_RELATIVE_ERROR:
            raise ParityError(
                f"{case}: {result.differing} of {result.pixels} hash codes of {result.name} differ "
                f"from PyTorch's, by up to {result.largest_gap:.2g} of the largest projection "
                f"(limit {LARGEST_RELATIVE_ERROR:g}); nothing was written"
            )


def session_with_codes(
    network: Network, model: onnx.ModelProto
) -> tuple[OnnxRuntimeSession, dict[str, str]]:
    """Open a session that returns the hash codes too; with its output by attention round."""
    codes_of = {name: f"{name}.{CODES_OUTPUT}" for name in attention_rounds(network)}
    if codes_of:
        returning = onnx.ModelProto()
        returning.CopyFrom(model)
        model = returning
    for name in codes_of.values():
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None)
        model.graph.output.append(value)
    return OnnxRuntimeSession(model.SerializeToString()), codes_of
