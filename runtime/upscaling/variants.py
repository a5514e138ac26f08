"""Three variants of a model: for the whole image, for tiles, and for the moments of tiles."""

from __future__ import annotations

from pathlib import Path

from adadm.runtime.backends import open_session
from adadm.runtime.errors import SessionError, TilingError
from adadm.runtime.models.bundled import FOR_TILES, Variant, is_engine, variant_path
from adadm.runtime.sessions.session import Session, SizeRange
from adadm.runtime.upscaling.tile_plan import common_sizes

CPU_BACKENDS = ("cpu", "openvino")
"""Backends that use the machine's main memory."""


TENSORS: dict[Variant, tuple[tuple[str, ...], str]] = {
    "whole": (("lr",), "sr"),
    "tile": (("lr", "std"), "sr"),
    "moments": (("lr", "std", "rows_inside", "columns_inside"), "moments"),
}
"""Inputs and output of each variant."""


class ModelVariants:
    """Variants of one model, each opened on first use.

    Args:
        model: file of the variant for the whole image, which is opened at once.
        backend: backend of that variant; the others use the one that was chosen for it.
        threads: CPU threads; 0 leaves the number to the backend.
        alone: on a CPU, hold one variant at a time, since a session keeps the memory of its runs.
        may_time: as for `open_session`.

    Raises:
        SessionError: the model cannot be loaded.
    """

    def __init__(
        self, model: Path, backend: str, *, threads: int, alone: bool, may_time: bool
    ) -> None:
        self._model, self._threads = model, threads
        self._closed = False
        self._tile_sizes: list[SizeRange] = []
        self._sessions: dict[Variant, Session] = {
            "whole": open_session(model, backend, threads=threads, may_time=may_time)
        }
        self._metadata = self._sessions["whole"].metadata
        self._backend = self._sessions["whole"].backend
        self._alone = alone and self._backend in CPU_BACKENDS

    def session(self, variant: Variant) -> Session:
        """Session of a variant. Do not keep it: requesting another variant may close it.

        Raises:
            SessionError: all are closed, or the variant cannot be loaded.
        """
        if self._closed:
            raise SessionError("the upscaler is closed; open another")
        if self._alone:
            for other in self._sessions.keys() - {variant}:
                self._sessions.pop(other).close()
        if variant not in self._sessions:
            path = variant_path(self._model, variant)
            self._sessions[variant] = open_session(
                path, backend=self._backend, threads=self._threads
            )
        return self._sessions[variant]

    def tile_sizes(self, height: int, width: int) -> list[SizeRange]:
        """Sizes that both variants for tiles take; the first call opens and checks them.

        Args:
            height, width: size of the image that needs tiles, px, for the messages.

        Raises:
            TilingError: a variant is missing or belongs to another model, or no tile fits both.
        """
        if not self._tile_sizes:
            tile, moments = (self._checked(variant, height, width) for variant in FOR_TILES)
            self._tile_sizes = common_sizes(tile, moments)
            if not self._tile_sizes:
                takes = " and ".join(
                    f"{variant_path(self._model, variant)} takes "
                    f"{' or '.join(map(str, sizes)) or 'no single image'}"
                    for variant, sizes in zip(FOR_TILES, (tile, moments), strict=True)
                )
                raise TilingError(f"{takes}, so no tile fits both; build both for the same sizes")
        return self._tile_sizes

    def close(self) -> None:
        """Free the models."""
        self._closed = True
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def _checked(self, variant: Variant, height: int, width: int) -> list[SizeRange]:
        path = variant_path(self._model, variant)
        if not path.is_file():
            make = (
                f"build it: adadm build {path.with_suffix('.onnx').name}"
                if is_engine(path)
                else "export the model with --stats external"
            )
            raise TilingError(
                f"an image of {width}x{height} px needs tiles, and tiles that share the "
                f"statistic need {path}, which is missing; {make}, or give each tile its own "
                "statistic: --passes 1 (seams)"
            )
        session = self.session(variant)
        if differs := session.metadata.difference(self._metadata):
            raise TilingError(
                f"{path} {differs} than {self._model}; make both again, with --stats external"
            )
        session.expect(*TENSORS[variant], path)
        return session.sizes
