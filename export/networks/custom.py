"""Networks of users: any module from `lr` to `sr`, by the name of its factory."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from adadm.export.networks.network import Network, StateDict, Undetectable
from adadm.runtime.errors import CheckpointError

_SIDES_TRIED = (1, 2, 4, 8, 16, 32, 64, 128)


def custom_network_class(name: str) -> type[Network]:
    """Network class for `package.module:factory`.

    The factory is a subclass of `Network`, which is returned itself, or a callable without
    arguments that returns an `nn.Module`. The factor and the smallest input of such a module are
    measured; its `rgb_range` must be given. Modules in the working folder are found too.

    Raises:
        CheckpointError: there is no such factory, or it does not build a super-resolution network.
    """
    factory = _find(name)
    if isinstance(factory, type) and issubclass(factory, Network):
        if inspect.isabstract(factory) or not hasattr(factory, "template"):
            raise CheckpointError(
                f"--arch {name}: expected a complete Network, with all methods and a template"
            )
        return factory

    def build() -> nn.Module:
        try:
            module = factory()
        except Exception as error:
            raise CheckpointError(
                f"{name} fails when called without arguments: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(module, nn.Module):
            raise CheckpointError(
                f"{name} returned a {type(module).__name__}, expected a torch.nn.Module"
            )
        return module

    @functools.cache
    def keys() -> frozenset[str]:
        return frozenset(build().state_dict())

    class Custom(Network):
        architecture: ClassVar[str] = name
        template: ClassVar[Mapping[str, Undetectable]] = {"rgb_range": float}

        def __init__(self, rgb_range: float) -> None:
            module = build()
            side, upscale = _measure(name, module)
            super().__init__()
            self.upscale, self.rgb_range, self.smallest_area = upscale, rgb_range, side**2
            self.adopted = module

        @property
        def root(self) -> nn.Module:
            return self.adopted

        @classmethod
        def detects(cls, state: StateDict) -> bool:
            return 2 * len(keys() & state.keys()) >= len(keys())

        @classmethod
        def read_hyperparameters(cls, state: StateDict) -> dict[str, float]:  # noqa: ARG003
            return {}

        def features(self, lr: torch.Tensor) -> torch.Tensor:
            sr: torch.Tensor = self.adopted(lr)
            return sr

        def reconstruct(self, features: torch.Tensor) -> torch.Tensor:
            return features

    return Custom


def _find(name: str) -> Callable[[], Any]:
    module_name, _, attribute = name.partition(":")
    if (folder := os.getcwd()) not in sys.path:
        sys.path.append(folder)  # last, so that no file there hides a library
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise CheckpointError(
            f"--arch {name}: cannot import {module_name}: {type(error).__name__}: {error}"
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise CheckpointError(
            f"--arch {name}: expected a function or class {attribute} in {module_name}"
        )
    builds: Callable[[], Any] = factory
    return builds


@torch.inference_mode()
def _measure(name: str, module: nn.Module) -> tuple[int, int]:
    """Side of the smallest square that a module accepts, px; and its factor."""
    training = module.training
    module.eval()
    failure: Exception | None = None
    for side in _SIDES_TRIED:
        try:
            shape = tuple(module(torch.zeros(1, 3, side, side)).shape)
        except Exception as error:  # noqa: BLE001 (the user's code raises what it likes)
            failure = error
            continue
        module.train(training)
        upscale = shape[-1] // side
        if upscale < 2 or shape != (1, 3, upscale * side, upscale * side):
            raise CheckpointError(
                f"{name}: expected (1, 3, r*{side}, r*{side}) for (1, 3, {side}, {side}), with an "
                f"integer r of 2 or more, got {shape}"
            )
        return side, upscale
    raise CheckpointError(f"{name} fails on squares of 1 to {_SIDES_TRIED[-1]} px: {failure}")
