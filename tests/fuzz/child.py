"""A process that reads one case after another, and says what came of each.

Its standard output has one JSON line before and one after each case: a case that ends the process,
or that never ends, is the last that was begun.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import resource
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

from fuzz.reader import Case, load_reader, make_case
from fuzz.watch import Watch

MEMORY_BYTES = 4 << 30
"""That a case may take."""
_SOURCES = ("export", "calibration", "runtime", "deployment", "scripts", "device_files")


def main(name: str, seed: int, first: int, step: int, stop: int) -> None:
    """Read the cases `first`, `first + step`, ... below `stop`."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)  # warnings of libraries
    logging.disable()

    def say(**line: object) -> None:
        print(json.dumps(line), file=out, flush=True)

    reader = load_reader(name)
    warnings.simplefilter("ignore")
    seeds = reader.seeds()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        watch = Watch(Path(folder))
        for seed_name, files in seeds.items():  # libraries load what they need
            refusal = watch.read(reader, Case(files, files))
            say(seed=seed_name, refused=None if refusal is None else str(refusal)[:200])
        _limit_memory()
        for index in itertools.count(first, step) if stop < 0 else range(first, stop, step):
            case = make_case(reader, seeds, seed, index)
            say(begin=index)
            try:
                refusal = watch.read(reader, case)
            except Exception as error:  # noqa: BLE001
                say(end=index, fault=_cause(error), trace=traceback.format_exc()[-3000:])
            else:
                say(end=index, refused=None if refusal is None else type(refusal).__name__)


def _limit_memory() -> None:
    """Bound the address space, by what is in use now and what a case may take."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _cause(error: BaseException) -> str:
    """Type of an error and the last place in our sources, by which causes are told apart."""
    ours = [
        f"{Path(frame.filename).name}:{frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if any(part in _SOURCES for part in Path(frame.filename).parts)
        and "site-packages" not in frame.filename
        and "fuzz" not in Path(frame.filename).parts
    ]
    return f"{type(error).__name__} in {ours[-1] if ours else 'the harness'}: {str(error)[:150]}"


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:6]))
