"""Where PyTorch keeps what it compiles."""

from __future__ import annotations

import os

from adadm.runtime.files import cache_folder


def keep_compiler_cache() -> None:
    """Give PyTorch's compiler a folder beside our caches, unless it cannot be made there.

    Tracing alone makes that folder, by default under a name that anyone can foresee in the folder
    for temporary files, where nothing removes it.
    """
    folder = cache_folder() / "torch"
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
