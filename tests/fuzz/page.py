"""Figures of campaigns: `docs/results/fuzzing.json`, and the page made of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from typing import Any

from _support.scripts import ROOT
from fuzz.campaign import Outcome
from fuzz.disturbances import DISTURBANCES, Findings
from studies.pages import read_results, table, write_page, write_results

_NAME = "fuzzing"
_KINDS = {
    "kills": ("Kills", "The verb is killed at a random time, then run again to its end."),
    "disks": ("Full disks", "The output folder is a disk of a given size."),
    "pairs": ("Two at once", "The verb runs twice at the same time in one folder."),
    "closed": (
        "No network, and nothing else to write",
        "Only the working folder can be written; what asks the network is refused, and seen.",
    ),
}


def record_inputs(outcomes: Iterable[Outcome]) -> None:
    """Replace the figures of these readers."""
    for outcome in outcomes:
        row = {
            "inputs": outcome.count,
            "accepted": outcome.accepted,
            "refused": outcome.refused.total(),
            "faults": len(outcome.faults),
            "seed": outcome.seed,
            "commit": _commit(),
        }
        _record("readers", outcome.reader, row)


def record_disturbances(kind: str, findings: Findings, seed: int) -> None:
    """Replace the figures of a verb under a kind of disturbance."""
    row = {"times": findings.count, "faults": len(findings.faults), "besides": findings.notes}
    _record(kind, findings.verb, {**row, "seed": seed, "commit": _commit()})


def _record(kind: str, name: str, row: dict[str, Any]) -> None:
    results = read_results(_NAME)
    results[kind] = dict(sorted({**results.get(kind, {}), name: row}.items()))
    write_results(_NAME, results)


def _commit() -> str:
    """Commit of the sources; marked where they differ from it, but for these figures."""
    changed = _git("status", "--porcelain", "--", ".", f":!docs/results/{_NAME}.*")
    return _git("rev-parse", "--short=7", "HEAD") + ("-dirty" if changed else "")


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def draw() -> None:
    """Write the page."""
    write_page(_NAME, page(read_results(_NAME)))


def page(results: dict[str, Any]) -> str:
    """Text of the page."""
    readers = results.get("readers", {})
    inputs, faults = (sum(row[key] for row in readers.values()) for key in ("inputs", "faults"))
    parts = [
        "# Damaged inputs, kills, full disks",
        "Written by `scripts/fuzz --record`; every figure comes from [its JSON](fuzzing.json). "
        "What is promised: [safety](../explanation/safety.md).",
        "## Inputs",
        f"{inputs:,} damaged files and folders, {faults} faults. A fault is an exception that is "
        "no refusal, a crash, over 10 s of a processor or 4 GiB, a file, process or socket that a "
        "reader has no business with, or something accepted that is wrong. The commit is that of "
        "the sources; with it and the seed, `scripts/fuzz --reader NAME --seed SEED --inputs N` "
        "reads the same.",
        table(
            ("reader", "inputs", "accepted", "refused", "faults", "seed", "commit"),
            [
                (
                    name,
                    *(f"{row[key]:,}" for key in ("inputs", "accepted", "refused", "faults")),
                    *(str(row["seed"]), row["commit"]),
                )
                for name, row in readers.items()
            ],
            numbers=True,
        ),
    ]
    for kind in DISTURBANCES:
        title, text = _KINDS[kind]
        rows = results.get(kind)
        if not rows:
            continue
        times, faults = (sum(row[key] for row in rows.values()) for key in ("times", "faults"))
        parts += [
            f"## {title}",
            f"{text} {times} times, {faults} faults.",
            table(
                ("verb", "times", "faults", "besides", "seed", "commit"),
                [
                    (
                        *(name, str(row["times"]), str(row["faults"])),
                        ", ".join(f"{what}: {count}" for what, count in row["besides"].items()),
                        *(str(row["seed"]), row["commit"]),
                    )
                    for name, row in rows.items()
                ],
            ),
        ]
    return "\n\n".join(parts) + "\n"
