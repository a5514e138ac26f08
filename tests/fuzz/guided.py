"""Fuzzing guided by coverage: atheris draws the mutations' seeds, and keeps what reaches new code.

    python -m fuzz.guided READER -max_total_time=60

It works on readers in Python; what a library in C does is not seen. Inputs that fail are left in
the working folder as `crash-...`, and `unpack` gives their files.
"""

from __future__ import annotations

import io
import random
import sys
import tempfile
import zipfile
from pathlib import Path

from fuzz.reader import Case, Files, load_reader
from fuzz.watch import Watch


def pack(case: Case) -> bytes:
    """A case as one array of bytes: a zip without compression."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for kind, files in (("case", case.files), ("seed", case.seed)):
            for name, content in files.items():
                archive.writestr(zipfile.ZipInfo(f"{kind}/{name}"), content)
    return packed.getvalue()


def unpack(data: bytes) -> Case:
    """The case of `pack`.

    Raises:
        zipfile.BadZipFile: it was not made by `pack`.
    """
    parts: dict[str, dict[str, bytes]] = {"case": {}, "seed": {}}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            kind, name = entry.filename.split("/", 1)
            parts[kind][name] = archive.read(entry)
    return Case(parts["case"], parts["seed"])


def main(name: str, options: list[str]) -> None:
    """Fuzz a reader; `options` are libFuzzer's."""
    import atheris  # only here: it is no part of the tests

    with atheris.instrument_imports(include=["adadm"]):
        reader = load_reader(name)
    seeds: dict[str, Files] = dict(reader.seeds())

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        try:
            case = unpack(data)
        except (zipfile.BadZipFile, ValueError, KeyError):
            files = seeds[rng.choice(sorted(seeds))]
            case = Case(files, files)
        return pack(Case(reader.mutate(case.files, rng), case.seed))[:most]

    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        watch = Watch(Path(folder) / "scratch")
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for seed_name, files in seeds.items():
            (corpus / seed_name).write_bytes(pack(Case(files, files)))

        def one_input(data: bytes) -> None:
            try:
                case = unpack(data)
            except (zipfile.BadZipFile, ValueError, KeyError):
                return
            watch.read(reader, case)

        command = [sys.argv[0], str(corpus), "-max_len=1000000", "-timeout=10", *options]
        atheris.Setup(command, one_input, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
