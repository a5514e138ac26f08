"""Feed the toolkit's readers with damaged files, and say what came of it.

A fault is an exception that is no refusal, a crash, a hang, memory over the limit, a file, process
or socket that a reader has no business with, or something accepted that is wrong. Cases follow from
the seed and their index alone, so that any can be read again.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.table import Table
from rich.text import Text

from adadm.runtime.tables import Console
from fuzz import campaign, page
from fuzz.campaign import Outcome
from fuzz.disturbances import DISTURBANCES, Findings, undisturbed
from fuzz.reader import load_reader, make_case, reader_names, write_files
from fuzz.reduce import reduce
from fuzz.verbs import VERBS
from fuzz.watch import Watch, is_fault

FAULTS = Path(".fuzz")
"""Where cases that failed are left."""


def main() -> int:
    """Run a campaign, or read one case; exit 1 if there is a fault."""
    options = _parse()
    if options.input is not None:
        return _replay(options.reader[0], options.seed, options.input)
    seed = secrets.randbelow(10**9) if options.seed is None else options.seed
    print(f"seed {seed}", file=sys.stderr)
    if options.disturb:
        return _disturb(options, seed)
    readers = options.reader or reader_names()
    if options.guided:
        return _guide(readers, seed, options.minutes * 60 / len(readers))
    outcomes = []
    for name in readers:
        seconds = float("inf") if options.minutes is None else options.minutes * 60 / len(readers)
        outcomes.append(_run(name, seed, seconds, options.inputs, options.workers))
    _print(outcomes)
    if options.record:
        page.record_inputs(outcomes)
        page.draw()
    return int(any(outcome.faults for outcome in outcomes))


def _run(name: str, seed: int, seconds: float, most: int, workers: int) -> Outcome:
    outcome = Outcome(name, seed)
    shown = 0
    for outcome in campaign.run(name, seed=seed, seconds=seconds, most=most, workers=workers):
        for index, cause in outcome.faults[shown:]:
            print(f"{name} --seed {seed} --input {index}: {cause}", file=sys.stderr, flush=True)
        shown = len(outcome.faults)
    _keep(outcome)
    line = f"{name}: {outcome.count} inputs, {len(outcome.faults)} faults, {outcome.seconds:.0f} s"
    print(line, file=sys.stderr, flush=True)
    return outcome


def _guide(names: list[str], seed: int, seconds: float) -> int:
    """Fuzz readers guided by coverage, one after the other."""
    if importlib.util.find_spec("atheris") is None:
        print(
            f"--guided needs atheris: {sys.executable} -m pip install --group fuzz", file=sys.stderr
        )
        return 1
    failed = 0
    for name in names:
        place = FAULTS / name / "guided"
        place.mkdir(parents=True, exist_ok=True)
        limits = [f"-max_total_time={round(seconds)}", f"-artifact_prefix={place}/"]
        command = [sys.executable, "-m", "fuzz.guided", name, *limits, f"-seed={seed % 2**31}"]
        failed |= subprocess.run(command, check=False).returncode != 0
    return int(failed)


def _disturb(options: argparse.Namespace, seed: int) -> int:
    """Disturb verbs, and print what came of it."""
    table = Table("disturbance", "verb", "times", "faults", "besides")
    rows = []
    for verb in options.verb or VERBS:
        expected = undisturbed(verb)
        for kind in options.disturb:
            disturb, times = DISTURBANCES[kind]
            rng = random.Random(f"{seed}/{kind}/{verb}")
            findings, shown = Findings(verb), 0
            for findings in disturb(verb, expected, rng, options.count or times(verb)):
                for fault in findings.faults[shown:]:
                    print(f"{verb}: {fault}", file=sys.stderr, flush=True)
                shown = len(findings.faults)
            notes = ", ".join(f"{what} {times}" for what, times in findings.notes.items())
            cells = (kind, verb, findings.count, len(findings.faults), notes)
            table.add_row(*map(Text, map(str, cells)), style="red" if findings.faults else None)
            print(" ".join(map(str, cells)), file=sys.stderr, flush=True)
            rows.append(findings)
            if options.record:
                page.record_disturbances(kind, findings, seed)
    Console(width=100).print(table)
    if options.record:
        page.draw()
    return int(any(findings.faults for findings in rows))


def _keep(outcome: Outcome) -> None:
    """Write the first case of each cause of faults."""
    if not outcome.faults:
        return
    reader = load_reader(outcome.reader)
    seeds, known = reader.seeds(), set[str]()
    for index, cause in outcome.faults:
        kind = cause.split(":")[0]
        if kind not in known and len(known) < 20:
            known.add(kind)
            case = make_case(reader, seeds, outcome.seed, index)
            write_files(FAULTS / outcome.reader / str(index), case.files)


def _replay(name: str, seed: int, index: int) -> int:
    """Read one case in this process, reduce it if it fails, and leave it in `FAULTS`."""
    reader = load_reader(name)
    case = make_case(reader, reader.seeds(), seed, index)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        watch = Watch(Path(folder))
        try:
            refusal = watch.read(reader, case)
        except Exception:
            least = reduce(case, is_fault(watch, reader), seconds=60.0)
            place = FAULTS / name / f"{index}-least"
            shutil.rmtree(place, ignore_errors=True)
            write_files(place, least.files)
            print(f"the least case that fails lies in {place}", file=sys.stderr)
            raise
    print("accepted" if refusal is None else f"refused: {refusal}")
    return 0


def _print(outcomes: list[Outcome]) -> None:
    table = Table("reader", "inputs", "accepted", "refused", "faults", "causes", "inputs/s")
    for outcome in outcomes:
        cells = (
            *(outcome.reader, outcome.count, outcome.accepted, outcome.refused.total()),
            *(len(outcome.faults), len(outcome.causes)),
            f"{outcome.count / max(outcome.seconds, 0.1):.0f}",
        )
        table.add_row(*map(Text, map(str, cells)), style="red" if outcome.faults else None)
    Console(width=100).print(table)
    for outcome in outcomes:
        for cause, count in outcome.causes.most_common():
            print(f"{outcome.reader}: {count} x {cause}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    add = parser.add_argument
    add("--minutes", type=float, help="of all readers together; default: until --inputs")
    add("--inputs", type=int, default=-1, help="most inputs of each reader; default: no limit")
    add("--reader", action="append", choices=reader_names(), help="one reader; may be repeated")
    add("--seed", type=int, help="of all that is drawn; by default a new one, which is printed")
    add("--guided", action="store_true", help="let coverage choose, by atheris; needs --minutes")
    add("--input", type=int, metavar="INDEX", help="read one case alone, and reduce it if it fails")
    for kind, (disturb, _) in DISTURBANCES.items():
        add(f"--{kind}", action="append_const", dest="disturb", const=kind, help=disturb.__doc__)
    add("--verb", action="append", choices=list(VERBS), help="one verb; may be repeated")
    add("--count", type=int, help="disturbances of each verb; default: the full number")
    add("--workers", type=int, default=2, help="processes; default: 2")
    add("--record", action="store_true", help="write the figures to docs/results/fuzzing.md")
    options = parser.parse_args()
    if options.input is not None and (options.seed is None or len(options.reader or ()) != 1):
        parser.error("--input needs --seed and one --reader")
    if options.guided and options.minutes is None:
        parser.error("--guided needs --minutes")
    given = (options.disturb, options.input, options.minutes)
    if options.inputs < 0 and all(value is None for value in given):
        parser.error("expected --minutes or --inputs")
    return options


if __name__ == "__main__":
    sys.exit(main())
