"""Non-local sparse attention: each pixel attends to pixels that a random rotation puts near."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from adadm.export.networks.blocks import convolution
from adadm.export.operators import DOMAIN, DOMAIN_VERSION
from adadm.export.operators.sparse_attention import ATTENTION_ROUND, LARGEST_BUCKETS, SMALLEST_NORM
from adadm.runtime.errors import ImageError


class AttentionRound(nn.Module):
    """One round of hashing, sorting and attention within chunks of the sorted pixels.

    The published code draws a new rotation at every call, even in inference, so that two runs
    differ. Here only training does so. In evaluation the rotation is a constant, drawn once; the
    number of columns used depends on the image size.

    Args:
        embedding: channels by which pixels are matched.
        chunk_size: pixels in a chunk.
        generator: source of the rotation.
    """

    rotations: torch.Tensor

    def __init__(self, embedding: int, chunk_size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.chunk_size = chunk_size
        shape = embedding, LARGEST_BUCKETS // 2
        rotations = torch.randn(shape, generator=generator, device="cpu")  # the generator's
        self.register_buffer("rotations", rotations, persistent=False)

    def project(self, match: torch.Tensor) -> torch.Tensor:
        """Project each pixel onto the centres of the buckets: (N, H*W, buckets)."""
        pixels = match.shape[2] * match.shape[3]
        buckets = min(pixels // self.chunk_size + pixels // self.chunk_size % 2, LARGEST_BUCKETS)
        rotations = self.rotations[:, : buckets // 2]
        if self.training:
            rotations = torch.randn_like(rotations)
        projected = match.flatten(2).transpose(1, 2) @ rotations
        return torch.cat((projected, -projected), dim=-1)

    def forward(
        self, match: torch.Tensor, values: torch.Tensor, codes: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend within chunks.

        Args:
            match: (N, embedding, H, W).
            values: (N, C, H, W).
            codes: bucket of each pixel (N, H*W), instead of the nearest one.

        Returns:
            The attended values, (N, C, H, W), and the log-sum-exp of each pixel's scores,
            (N, 1, H, W), by which rounds are weighted.
        """
        batch, _, height, width = values.shape
        pixels = height * width
        if torch.onnx.is_in_onnx_export():
            outputs: Any = torch.onnx.ops.symbolic_multi_out(
                f"{DOMAIN}::{ATTENTION_ROUND}",
                (match, values, self.rotations),
                attrs={"chunk_size": self.chunk_size},
                dtypes=(values.dtype, values.dtype, torch.int64),
                shapes=(values.shape, (batch, 1, height, width), (batch, pixels)),
                version=DOMAIN_VERSION,
            )
            return outputs[0], outputs[1]
        if codes is None:
            codes = self.project(match).argmax(dim=-1)
        order = codes.argsort(dim=-1, stable=True)
        filled = -(-pixels // self.chunk_size) * self.chunk_size
        order = torch.cat((order, order[:, 2 * pixels - filled :]), dim=1)  # fill the last chunk

        def in_chunks(image: torch.Tensor) -> torch.Tensor:
            """Sort pixels into chunks: (N, C, H, W) to (N, chunks, chunk_size, C)."""
            rows = image.flatten(2).transpose(1, 2)
            index = order[..., None].expand(-1, -1, rows.shape[-1])
            return rows.gather(1, index).reshape(batch, -1, self.chunk_size, rows.shape[-1])

        queries, values = in_chunks(match), in_chunks(values)
        keys = _with_neighbours(nn.functional.normalize(queries, dim=-1, eps=SMALLEST_NORM))
        scores = queries @ keys.transpose(-1, -2)
        weight = torch.logsumexp(scores, dim=-1, keepdim=True)
        attended = torch.exp(scores - weight) @ _with_neighbours(values)

        back = order[:, :pixels].argsort(dim=-1)

        def as_image(chunks: torch.Tensor) -> torch.Tensor:
            rows = chunks.flatten(1, 2)
            index = back[..., None].expand(-1, -1, rows.shape[-1])
            return rows.gather(1, index).transpose(1, 2).reshape(batch, -1, height, width)

        return as_image(attended), as_image(weight)


def _with_neighbours(chunks: torch.Tensor) -> torch.Tensor:
    """Append to each chunk the previous and the next one, in a ring."""
    return torch.cat((chunks, chunks.roll(1, dims=1), chunks.roll(-1, dims=1)), dim=2)


class SparseAttention(nn.Module):
    """NLSN's non-local sparse attention.

    Source: Mei, Fan, Zhou, "Image Super-Resolution with Non-Local Sparse Attention", 2021. The
    rounds are independent until they are weighted, so each is computed on its own, with the memory
    of a single one.

    Args:
        embedding: channels by which each round matches pixels.
        res_scale: constant factor of the attended values.
    """

    def __init__(
        self, features: int, embedding: int, rounds: Sequence[AttentionRound], res_scale: float
    ) -> None:
        super().__init__()
        self.chunk_size = rounds[0].chunk_size
        self.res_scale = res_scale
        self.conv_match = nn.Sequential(convolution(features, embedding))
        self.conv_assembly = nn.Sequential(convolution(features, features, kernel_size=1))
        self.rounds = nn.ModuleList(rounds)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, features, H, W) to the same shape.

        Raises:
            ImageError: there are fewer pixels than in one chunk.
        """
        height, width = x.shape[2:]
        if not torch.onnx.is_in_onnx_export() and height * width < self.chunk_size:
            raise ImageError(
                f"expected at least {self.chunk_size} px (the chunk_size of the sparse attention), "
                f"got {height}x{width} = {height * width}"
            )
        match, values = self.conv_match(x), self.conv_assembly(x)
        attended, scores = zip(*(attend(match, values) for attend in self.rounds), strict=True)
        weights = torch.softmax(torch.cat(scores, dim=1), dim=1) * self.res_scale
        for index, result in enumerate(attended):
            x = x + weights.narrow(1, index, 1) * result
        return x
