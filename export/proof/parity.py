"""Whether an exported model computes what PyTorch computes, and whether that is any good.

Two questions, because the first does not answer the second: a wrong guess of `res_scale` or
`rgb_range` is shared by both sides, so parity holds and the pictures are bad.
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
"""Of the output's peak: float32 keeps 6e-8 a step, and a network has some hundred steps."""


@dataclass(frozen=True)
class Hashing:
    """How the hash codes of one case compare with PyTorch's.

    Attributes:
        codes: how many there are, over all rounds.
        differing: how many differ, each by a rounding.
        free_psnr_db: between the outputs when each backend uses its own codes.
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

    The hash codes of sparse attention jump where two buckets are equally near, so a rounding can
    move a pixel to another chunk and change the output by more than a rounding. There PyTorch is
    given ONNX Runtime's codes, each of which must be a nearest bucket but for a rounding, and the
    outputs must agree as everywhere.

    Args:
        static: N, H and W of a model whose sizes are fixed.
        std_of: computes the model's input `std` from its `lr`, where it has one.

    Returns:
        One comparison a case; and for a network that hashes, how its codes compare.

    Raises:
        ParityError: shapes differ, a value is not finite, an error is above
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
                f"PyTorch's own output of the case {name} is not finite: the network diverges, "
                "or its hyper-parameters are not those of its training; nothing was written"
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
    """Check that a model for images returns the very grey levels of the one for batches.

    Args:
        images: reads and returns uint8 (N, H, W, 3).
        batches: the same model for float32 (N, 3, H, W), converted by `runtime.images` here.

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
                f"{name}: with uint8 in and out {differing} of {sr.size} values differ from "
                "those of the conversion outside the graph; nothing was written"
            )


def _check_factor(output: str, cases: list[str], pairs: list[tuple[Batch, Batch]]) -> None:
    """Hold one factor to the largest of all cases, as `sr` is.

    Not to itself: a shifted trunk resolves its std to a rounding of `center`, which is some 1e-5 of
    the std of a flat image, whose factor and residual are the smaller for it.
    """
    allowed = LARGEST_RELATIVE_ERROR * max(np.abs(expected).max() for _, expected in pairs)
    for case, (factor, expected) in zip(cases, pairs, strict=True):
        if not (np.abs(factor - expected) <= allowed).all():
            raise ParityError(
                f"{output} of {case} is {factor.ravel()} in ONNX Runtime and {expected.ravel()} in "
                f"PyTorch (allowed: {allowed:.2g} apart); nothing was written"
            )


def _check_codes(case: str, rounds: list[HashCodes]) -> None:
    for result in rounds:
        if not result.largest_gap <= LARGEST_RELATIVE_ERROR:
            raise ParityError(
                f"{case}: {result.differing} of {result.pixels} hash codes of {result.name} differ "
                f"from PyTorch's, by up to {result.largest_gap:.2g} of the largest projection "
                f"(allowed {LARGEST_RELATIVE_ERROR:g}); nothing was written"
            )


def session_with_codes(
    network: Network, model: onnx.ModelProto
) -> tuple[OnnxRuntimeSession, dict[str, str]]:
    """A session that returns the hash codes too, and its output for each attention round."""
    codes_of = {name: f"{name}.{CODES_OUTPUT}" for name in attention_rounds(network)}
    if codes_of:
        returning = onnx.ModelProto()
        returning.CopyFrom(model)
        model = returning
    for name in codes_of.values():
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None)
        model.graph.output.append(value)
    return OnnxRuntimeSession(model.SerializeToString()), codes_of
