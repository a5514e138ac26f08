"""NLSN with AdaDM: residual blocks, sparse attention before every eighth one, a linear tail."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from adadm.export.networks.blocks import (
    ResidualBlock,
    convolution,
    linear_tail,
    read_head_features,
    read_linear_tail,
    read_norm_groups,
)
from adadm.export.networks.network import Network, StateDict, Undetectable
from adadm.export.networks.sparse_attention import AttentionRound, SparseAttention
from adadm.runtime.errors import CheckpointError

_MEAN = (0.4488, 0.4371, 0.4040)
_BLOCKS_BETWEEN_ATTENTION = 8
_LARGEST_CHUNK, _MOST_HASHES = 4096, 64
"""No tensor shows these numbers, and a file may state any; memory grows with their product."""


class MeanShift(nn.Conv2d):
    """Adds a multiple of the mean colour by a 1x1 convolution, as in the published code.

    Args:
        offset: -rgb_range to subtract the mean, +rgb_range to add it.
    """

    def __init__(self, offset: float) -> None:
        super().__init__(3, 3, kernel_size=1)
        assert self.bias is not None  # nn.Conv2d types it as optional
        self.weight.data = torch.eye(3).reshape(3, 3, 1, 1)
        self.bias.data = offset * torch.tensor(_MEAN)
        self.requires_grad_(requires_grad=False)


class NLSN(Network):
    """NLSN (Mei et al., 2021) with AdaDM's residual blocks.

    Published size: 32 blocks, 256 features, res_scale 0.1, chunk_size 144, n_hashes 4,
    embedding of a quarter of the features, rgb_range 1.

    Args:
        embedding: channels by which attention matches pixels; 0 for a quarter of the features.
        res_scale: constant factor of the residual branches and of the attention.
        chunk_size: pixels in a chunk of the attention.
        n_hashes: rounds of the attention.
        seed: seed of the rotations by which the attention hashes; any number will do.
    """

    architecture: ClassVar[str] = "nlsn"
    template: ClassVar[Mapping[str, Undetectable]] = {
        "res_scale": 0.1,
        "chunk_size": 144,
        "n_hashes": 4,
        "norm_groups": int,
    }
    choices: ClassVar[Mapping[str, float]] = {"seed": 0}

    def __init__(
        self,
        upscale: int,
        blocks: int = 32,
        features: int = 256,
        *,
        embedding: int = 0,
        res_scale: float = 0.1,
        rgb_range: float = 1.0,
        chunk_size: int = 144,
        n_hashes: int = 4,
        seed: int = 0,
        norm_groups: int = 0,
    ) -> None:
        if not (1 <= chunk_size <= _LARGEST_CHUNK and 1 <= n_hashes <= _MOST_HASHES):
            raise ValueError(
                f"expected a chunk_size of 1 to {_LARGEST_CHUNK}, and n_hashes of 1 to "
                f"{_MOST_HASHES}, got {chunk_size} and {n_hashes}"
            )
        super().__init__()
        self.upscale, self.rgb_range, self.smallest_area = upscale, rgb_range, chunk_size
        embedding = embedding or features // 4
        self.hyperparameters["embedding"] = embedding
        generator = torch.Generator().manual_seed(seed)

        def attention() -> nn.Module:
            rounds = [AttentionRound(embedding, chunk_size, generator) for _ in range(n_hashes)]
            return SparseAttention(features, embedding, rounds, res_scale)

        self.sub_mean = MeanShift(-rgb_range)
        self.add_mean = MeanShift(rgb_range)
        self.head = nn.Sequential(convolution(3, features))
        body = [attention()]
        for index in range(blocks):
            body.append(ResidualBlock(features, res_scale, norm_groups))
            if (index + 1) % _BLOCKS_BETWEEN_ATTENTION == 0:
                body.append(attention())
        self.body = nn.Sequential(*body, convolution(features, features))
        self.tail = linear_tail(upscale, features)

    @classmethod
    def detects(cls, state: StateDict) -> bool:
        return {"head.0.weight", "tail.1.weight", "sub_mean.bias"} <= state.keys() and any(
            re.match(r"body\.\d+\.conv_match\.", key) for key in state
        )

    @classmethod
    def read_hyperparameters(cls, state: StateDict) -> dict[str, float]:
        blocks = {m[1] for key in state if (m := re.match(r"body\.(\d+)\.conv2\.", key))}
        embeddings = {
            v.shape[:1].numel() for k, v in state.items() if k.endswith("conv_match.0.weight")
        }
        mean = state["sub_mean.bias"]
        if len(embeddings) != 1 or mean.shape != (3,):
            raise CheckpointError(
                "expected one number of channels of the embeddings, and sub_mean.bias of shape "
                f"(3,), got {sorted(embeddings)} and {tuple(mean.shape)}"
            )
        rgb_range = float(mean[0]) / -_MEAN[0]
        if not (math.isfinite(rgb_range) and rgb_range > 0):
            raise CheckpointError(
                f"sub_mean.bias[0]: expected -rgb_range * {_MEAN[0]}, got {float(mean[0]):g}"
            )
        return {
            "upscale": read_linear_tail(state),
            "blocks": len(blocks),
            "features": read_head_features(state, "head.0.weight"),
            "embedding": embeddings.pop(),
            "rgb_range": float(f"{rgb_range:.6g}"),
            **read_norm_groups(state),
        }

    def features(self, lr: torch.Tensor) -> torch.Tensor:
        x = self.head(self.sub_mean(lr))
        features: torch.Tensor = x + self.body(x)
        return features

    def reconstruct(self, features: torch.Tensor) -> torch.Tensor:
        sr: torch.Tensor = self.add_mean(self.tail(features))
        return sr
