"""Random crops of pictures that are all held in memory of the training device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from adadm.runtime.errors import ImageError
from adadm.runtime.images.arrays import ImageArray, crop_to_multiple, reduce


@dataclass(frozen=True)
class Pair:
    """A picture and its reduction, uint8 (H, W, 3)."""

    lr: ImageArray
    hr: ImageArray


def make_sharp_pair(picture: ImageArray, upscale: int) -> Pair:
    """Pair a picture with itself, each pixel a square: an input as sharp as inputs can be."""
    return Pair(picture, picture.repeat(upscale, axis=0).repeat(upscale, axis=1))


def make_pair(picture: ImageArray, upscale: int) -> Pair:
    """Crop a picture to a multiple of the factor, and reduce it."""
    hr = crop_to_multiple(picture, upscale)
    return Pair(reduce(hr, upscale), hr)


class Crops:
    """A source of random crops, turned and mirrored, of photographs and drawn pictures.

    Choosing and cutting are two steps: places are chosen on the CPU, equal for any device; pixels
    are cut on the device, without waiting for it.

    Args:
        photographs, drawn: sources of crops; a picture's share grows with its area. The drawn
            ones are numbered after the photographs.
        drawn_share: share of drawn pictures among the crops, 0..1.
        patch: side of a crop at low resolution, px.
        rgb_range: value of white.

    Raises:
        ImageError: a required list holds no picture as large as a crop.
    """

    def __init__(
        self,
        photographs: list[Pair],
        drawn: list[Pair],
        *,
        drawn_share: float,
        patch: int,
        rgb_range: float,
        device: torch.device,
    ) -> None:
        self.patch, self.white, self.device = patch, rgb_range / 255, device
        kept, weights = [], []
        for pairs, share in ((photographs, 1 - drawn_share), (drawn, drawn_share)):
            large = [pair for pair in pairs if min(pair.lr.shape[:2]) >= patch]
            if share and not large:
                raise ImageError(
                    f"expected an image of at least {patch}x{patch} px after reduction, got none; "
                    "use a smaller --patch"
                )
            areas = torch.tensor([pair.lr[..., 0].size for pair in large], dtype=torch.float64)
            kept += large
            weights.append(share * areas / areas.sum())
        self.pictures = len(kept)
        self.first_drawn = self.pictures - len(large)
        self.weights = torch.cat(weights)
        self.free = torch.tensor([pair.lr.shape[:2] for pair in kept]) - patch + 1
        self.upscale = kept[0].hr.shape[0] // kept[0].lr.shape[0]
        self._lr, self._hr = (
            _Pixels([getattr(pair, side) for pair in kept], device) for side in ("lr", "hr")
        )

    def choose(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Choose places of crops, int64 (4, count): picture, top, left, turn."""
        picture = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        corner = torch.rand((count, 2), generator=generator, dtype=torch.float64)
        corner = (corner * self.free[picture]).long()
        turn = torch.randint(8, (count, 1), generator=generator)
        places = torch.cat([picture[:, None], corner, turn], dim=1).T.contiguous()
        return places.pin_memory() if self.device.type == "cuda" else places

    def cut(self, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut crops at places on the device: `lr` (N, 3, patch, patch) and `hr`, 0..rgb_range."""
        picture, top, left, turn = places
        lr = self._lr.cut(picture, top, left, turn, self.patch)
        factor = self.upscale
        hr = self._hr.cut(picture, top * factor, left * factor, turn, self.patch * factor)
        return lr * self.white, hr * self.white


class _Pixels:
    """The pixels of many pictures, one after another on a device."""

    def __init__(self, pictures: list[ImageArray], device: torch.device) -> None:
        areas = [picture.shape[0] * picture.shape[1] for picture in pictures]
        self.starts = torch.tensor([0, *np.cumsum(areas)[:-1]], device=device)
        self.widths = torch.tensor([picture.shape[1] for picture in pictures], device=device)
        self.values = torch.empty((sum(areas), 3), dtype=torch.uint8, device=device)
        for picture, values in zip(pictures, torch.split(self.values, areas), strict=True):
            values.copy_(torch.from_numpy(picture.reshape(-1, 3).copy()))

    def cut(
        self,
        picture: torch.Tensor,
        top: torch.Tensor,
        left: torch.Tensor,
        turn: torch.Tensor,
        size: int,
    ) -> torch.Tensor:
        """Cut squares (N, 3, size, size), float32; the bits of `turn` transpose and mirror."""
        along = torch.arange(size, device=self.values.device)
        mirrored = torch.stack([along, along.flip(0)])
        rows = mirrored[turn >> 1 & 1][:, :, None]
        columns = mirrored[turn >> 2 & 1][:, None, :]
        transposed = (turn & 1).bool()[:, None, None]
        row = torch.where(transposed, columns, rows)
        column = torch.where(transposed, rows, columns)
        first = (self.starts[picture] + top * self.widths[picture] + left)[:, None, None]
        at = first + row * self.widths[picture][:, None, None] + column
        return self.values[at].permute(0, 3, 1, 2).float()
