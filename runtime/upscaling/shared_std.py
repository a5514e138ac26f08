"""Statistics that the tiles of one image share, from its tiles and from a sample of it.

Every trunk's std depends on the factors before it, and each factor on the std before it. So a pass
over the tiles with wrong statistics returns wrong ones: of B modulators only the first is right
after one pass, the second after two. Trained networks then take B passes to settle.

A *mosaic* shortens that. It is one window full of small patches from all over the image, of which
only the middles count. Its statistics are nearly those of the image. So is its *response*: how its
statistics change when the factors follow from another std. Let `F` be a pass over all tiles and `M`
a pass over the mosaics, both functions of the given std that return the found std:

    given = M(own)                      the mosaics' own std, to begin with
    found = F(given)                    one pass over the image
    shared = found * M(shared) / M(given), solved by repetition

The image is exact where `F(shared) = shared`; the mosaics only lead there, 20 to 100 times as
fast (docs/explanation/tiling.md).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from adadm.runtime.errors import SessionError
from adadm.runtime.sessions.session import Session
from adadm.runtime.upscaling.tile_plan import Plan

Passes = int | Literal["settle"]
Read = Callable[[int, int, int, int], npt.NDArray[Any]]
"""Top, left, height, width of a region to its pixels (h, w, 3)."""
ToInput = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""Pixels (h, w, 3) to what the model reads."""
Std = npt.NDArray[np.float64]
Feed = dict[str, npt.NDArray[Any]]

_MOST_PASSES = 12
# Relative change of a std. Stds of equal float32 tensors differ by a few roundings of 6e-8.
_SETTLED = 1e-6

_MOSAICS = 4
_MIDDLE_PX = 16
_REPETITIONS = 2
_LARGEST_CORRECTION = 2.0
# On photographs in tiles of 128 px, corrections are 1 to 3 %, and their remaining error is 0.1 %.
_LIKE_ITS_SAMPLE = 0.05
_EXTRA_PASSES = 4


def runs(plan: Plan, passes: Passes) -> int:
    """Number of windows that `shared_std` runs, without extra passes."""
    count = 2 if passes == "settle" else int(passes) - 1
    return count * (plan.count + _MOSAICS * (1 + _REPETITIONS)) + _MOSAICS


def shared_std(
    session: Session,
    read: Read,
    *,
    to_input: ToInput,
    plan: Plan,
    passes: Passes,
    on_run: Callable[[], object],
) -> npt.NDArray[np.float32]:
    """Std of every trunk over the whole image, from windows of it.

    Args:
        session: the model that returns moments (`adadm export --stats external`).
        read: reads a region of the image.
        passes: passes over the image, including the one that makes the result. If the mosaics
            correct a std by more than 5 %, the image is unlike them and up to four more follow.
        on_run: called after each window and each mosaic.

    Returns:
        (1, B, 1, 1).

    Raises:
        SessionError: the backend fails, the model has another form, or a std is not finite.
    """
    (shape,) = (spec.shape for spec in session.inputs if spec.name == "std")
    trunks = shape[1] if len(shape) > 1 else None
    if not isinstance(trunks, int):
        raise SessionError(f"expected std (N, trunks, 1, 1) among the inputs, got {shape}")

    def found(feeds: Iterable[Feed], std: Std) -> Std:
        given = std.astype(np.float32).reshape(1, trunks, 1, 1)
        moments = []
        for feed in feeds:
            moments.append(session.run({**feed, "std": given})["moments"])
            if moments[-1].shape[1:] != (trunks, 3):
                raise SessionError(
                    f"expected moments (N, {trunks}, 3), as std has {trunks} trunks, got "
                    f"{moments[-1].shape}; make both models for tiles again"
                )
            on_run()
        return pooled_std(moments)

    mosaics = list(_mosaics(read, to_input, plan))
    given = found(mosaics, np.zeros(trunks))
    least = _MOST_PASSES if passes == "settle" else int(passes) - 1
    for index in range(max(least, min(least + _EXTRA_PASSES, _MOST_PASSES))):
        expected = found(mosaics, given)
        shared = whole = found(_windows(read, to_input, plan), given)
        if passes == "settle" and np.all(np.abs(whole - given) <= _SETTLED * given):
            return _as_input(whole)
        corrections = []
        for _ in range(_REPETITIONS):
            corrections.append(_ratio(found(mosaics, shared), expected))
            shared = whole * corrections[-1]
        given = shared
        if index + 1 >= least and np.all(np.abs(corrections[0] - 1) <= _LIKE_ITS_SAMPLE):
            break
    return _as_input(given)


def pooled_std(moments: Sequence[npt.NDArray[np.float32]]) -> Std:
    """Unbiased std of each trunk over all tiles.

    Args:
        moments: (N, B, 3) of each tile or batch of tiles: count, mean, and sum of squared
            deviations from that mean, for each of B trunks.

    Returns:
        (B,), computed in float64: `squares = sum(squares_i + count_i (mean_i - mean)^2)` (Chan,
        Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
        variances", 1979).
    """
    count, mean, squares = np.concatenate(moments).astype(np.float64).transpose(2, 0, 1)
    total = count.sum(axis=0)
    with np.errstate(invalid="ignore", over="ignore"):  # a network that diverges
        pooled_mean = (count * mean).sum(axis=0) / total
        pooled = (squares + count * (mean - pooled_mean) ** 2).sum(axis=0)
        return np.asarray(np.sqrt(pooled / np.maximum(total - 1, 1)))


def _as_input(std: Std) -> npt.NDArray[np.float32]:
    if not np.isfinite(std).all():
        raise SessionError(
            "the network diverges on this image: its statistics are not finite. Export it with "
            "--limit auto, or give another model"
        )
    return std.astype(np.float32).reshape(1, -1, 1, 1)


def _ratio(response: Std, expected: Std) -> Std:
    """Ratio, clamped so that a mosaic unlike the image errs no more than one pass can correct."""
    ratio = np.divide(response, expected, out=np.ones_like(expected), where=expected > 0)
    finite = np.nan_to_num(ratio, nan=1.0)
    return np.asarray(np.clip(finite, 1 / _LARGEST_CORRECTION, _LARGEST_CORRECTION))


def _windows(read: Read, to_input: ToInput, plan: Plan) -> Iterator[Feed]:
    for rows, columns in itertools.chain.from_iterable(plan.windows):
        image = read(rows.start, columns.start, rows.length, columns.length)
        yield _feed(to_input(image), [rows.inside], [columns.inside], plan.shape)


def _mosaics(read: Read, to_input: ToInput, plan: Plan) -> Iterator[Feed]:
    """Yield windows of patches on a grid over the image, each with its own part of the grid.

    The margin of a patch is a third of the overlap; it holds most of what the patch's middle sees.
    """
    margin = plan.overlap // 3
    side = _MIDDLE_PX + 2 * margin
    height, width = plan.shape
    image_size = (plan.windows[-1][0][0].stop, plan.windows[0][-1][1].stop)
    (heights, tops, rows), (widths, lefts, columns) = (
        _axis(window, whole, side, margin)
        for window, whole in zip((height, width), image_size, strict=True)
    )
    for tops_here, lefts_here in itertools.product(
        (tops[::2], tops[1::2]), (lefts[::2], lefts[1::2])
    ):
        patches = np.concatenate(
            [
                np.concatenate([read(top, left, heights, widths) for left in lefts_here], axis=1)
                for top in tops_here
            ]
        )
        rest = ((0, height - patches.shape[0]), (0, width - patches.shape[1]), (0, 0))
        yield _feed(to_input(np.pad(patches, rest)), rows, columns, plan.shape)


def _axis(window: int, whole: int, side: int, margin: int) -> tuple[int, list[int], list[slice]]:
    """Length of a patch, starts of the patches of two mosaics, and their middles in a mosaic."""
    length = min(side, window)
    margin = margin if length == side else 0
    count = window // length
    starts = np.linspace(0, whole - length, 2 * count).round().astype(int).tolist()
    middles = [slice(i * length + margin, (i + 1) * length - margin) for i in range(count)]
    return length, starts, middles


def _feed(
    lr: npt.NDArray[Any], rows: list[slice], columns: list[slice], shape: tuple[int, int]
) -> Feed:
    feed = {"lr": lr}
    for name, slices, axis in (("rows_inside", rows, 2), ("columns_inside", columns, 3)):
        inside = np.zeros(shape[axis - 2], np.float32)
        for part in slices:
            inside[part] = 1
        feed[name] = inside.reshape([-1 if a == axis else 1 for a in range(4)])
    return feed
