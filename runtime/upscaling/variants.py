"""The three variants of a model: for the whole image, for tiles, and for the moments of tiles."""

from __future__ import annotations

from pathlib import Path

from adadm.runtime.backends import open_session
from adadm.runtime.errors import SessionError, TilingError
from adadm.runtime.models.bundled import FOR_TILES, Variant, is_engine, variant_path
from adadm.runtime.sessions.session import Session, SizeRange
from adadm.runtime.upscaling.tile_plan import common_sizes

CPU_BACKENDS = ("cpu", "openvino")
"""Those that take their memory from the machine's."""


class ModelVariants:
    """The variants of one model, each opened when it is needed first.

    Args:
        model: the file of the variant for the whole image, which is opened at once.
        backend: of the first variant; the others are opened on the one that was chosen for it.
        threads: of the CPU; 0 leaves it to the backend.
        alone: hold one variant at a time, as a session keeps the memory of its runs; on a CPU only.

    Raises:
        SessionError: the model cannot be loaded.
    """

    def __init__(self, model: Path, backend: str, *, threads: int, alone: bool) -> None:
        self._model, self._threads = model, threads
        self._closed = False
        self._tile_sizes: list[SizeRange] = []
        self._sessions: dict[Variant, Session] = {
            "whole": open_session(model, backend=backend, threads=threads)
        }
        self._metadata = self._sessions["whole"].metadata
        self._backend = self._sessions["whole"].backend
        self._alone = alone and self._backend in CPU_BACKENDS

    def session(self, variant: Variant) -> Session:
        """The model in a variant. Not to be kept: asking for another variant may close it.

        Raises:
            SessionError: all are closed, or the variant cannot be loaded.
        """
        if self._closed:
            raise SessionError("the upscaler is closed; make another")
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
        """What the two variants for tiles take both, which are opened and checked the first time.

        Args:
            height, width: of the image that needs them, for the messages.

        Raises:
            TilingError: one is not there, they are not of this model, or no tile fits both.
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
                f"statistic need {path}, which is not there; {make}, or give each tile a "
                "statistic of its own: --passes 1 (seams)"
            )
        session = self.session(variant)
        if differs := session.metadata.difference(self._metadata):
            raise TilingError(
                f"{path} {differs} than {self._model}; make both again, with --stats external"
            )
        return session.sizes
