"""docs/performance.md, from what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from studies.performance.draw import kind_groups
from studies.performance.networks import SWEPT, Case
from studies.performance.peers import CPU_PEERS, GPU_PEERS, Peer

__all__ = ["page"]

Results = Mapping[str, Any]
_FLOOR_PEERS = ("eager", "compiled", "naive_onnxruntime", "naive_openvino")


def page(results: Results, cases: Mapping[str, Case]) -> str:
    """The whole page, in Markdown."""
    keys = [key for key in cases if key in results]
    parts = [_method(results), _targets(results, cases), _peers(results, cases, keys)]
    if "sweep" in results:
        parts.append(_sizes(results["sweep"], cases[SWEPT]))
    profiled = [key for key in keys if "profile" in results[key]]
    if profiled:
        parts.append(_nodes(results, cases, profiled))
        parts.append(_floor(results, cases, profiled))
        parts.append(_engines(results, cases, profiled))
    parts.append(_gpu(results, cases, keys))
    return "\n\n".join(parts) + "\n"


def _method(results: Results) -> str:
    machine = results["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    has_bf16 = {"avx512_bf16", "amx_bf16"} & set(machine["instructions"])
    bf16 = ""
    if not has_bf16:
        bf16 = (
            "This CPU has no bfloat16 instructions: asked for it, OpenVINO computes in float32.\n"
        )
    return f"""# Performance

Written by `scripts/studies/performance/study.py`; every figure comes from `docs/performance.json`.

Measured on {machine["date"]}: {machine["cpu"]}, {machine["cores"]} cores
({", ".join(machine["instructions"])}), {machine["memory_bytes"] / 2**30:.0f} GiB, Python
{machine["python"]}, {packages}.

Each peer is a process of its own, loaded and warmed up; then they take turns, one inference each,
so that what else the machine does hits all of them. Figures are medians, with the fastest and the
slowest in brackets; memory is the peak of the process, with all that it imports. All peers have
the same weights, in float32 where nothing else is said, and their outputs are compared.
{bf16}
- **PyTorch eager**: `channels_last`, `inference_mode`. **torch.compile**: the same, compiled.
- **naive export**: `torch.onnx.export` of the network, nothing done to it.
- **ours**: `adadm export`, defaults. ONNX Runtime and OpenVINO run as `adadm.runtime` opens them,
  for the naive export too."""


def _targets(results: Results, cases: Mapping[str, Case]) -> str:
    """What the toolkit promises, and what was seen."""
    rows = []
    for key, speedup, against_all in (("edsr_x4", 1.7, 1.3), ("edsr_x2", 1.1, 1.0)):
        if key not in results:
            continue
        peers = results[key]["peers"]
        naive, ours = peers["naive_onnxruntime"], peers["ours_onnxruntime"]
        if "ms" not in naive or "ms" not in ours:
            continue
        found = _median(naive) / _median(ours)
        rows.append(
            (
                f"{cases[key].title}: ours against the naive export, both on ONNX Runtime",
                speedup,
                found,
            )
        )
        theirs = _fastest(peers, ours=False)
        best = _fastest(peers, ours=True)
        found = _median(peers[theirs]) / _median(peers[best])
        names = f"{CPU_PEERS[best].name} against the fastest peer ({CPU_PEERS[theirs].name})"
        label = f"{cases[key].title}: {names}"
        rows.append((label, against_all, found))
        if key == "edsr_x4":
            found = naive["peak_bytes"] / ours["peak_bytes"]
            rows.append(
                (f"{cases[key].title}: peak memory, naive by ours, ONNX Runtime", 2.0, found)
            )
            engines = results[key]["engines"]
            found = engines["naive"]["activation_bytes"] / engines["ours"]["activation_bytes"]
            rows.append(
                (f"{cases[key].title}: activation memory of the engine, naive by ours", 6.0, found)
            )
    table = _table(
        ("promise", "at least", "seen", ""),
        [
            (name, f"{least:g}", f"{f:.2f}", "yes" if f >= least else "**missed**")
            for name, least, f in rows
        ],
    )
    return f"## What is promised\n\n{table}"


def _peers(results: Results, cases: Mapping[str, Case], keys: list[str]) -> str:
    text = "## Latency and memory\n\n![Latency of every peer](images/performance_peers.svg)"
    for key in keys:
        text += f"\n\n{_heading(cases[key])}\n\n{_peer_table(results[key]['peers'], CPU_PEERS)}"
    return text


def _heading(case: Case) -> str:
    height, width = case.size
    return f"### {case.title}, from {width}x{height}"


def _peer_table(peers: Results, known: Mapping[str, Peer]) -> str:
    reference = next(name for name in known if "ms" in peers.get(name, {}))
    naive = next((n for n in peers if n.startswith("naive") and "ms" in peers[n]), reference)
    rows = []
    for name, peer in known.items():
        if name not in peers:
            continue
        result = peers[name]
        if "failure" in result:
            rows.append((peer.name, f"failed: {result['failure']}", "", "", ""))
            continue
        times = result["ms"]
        rows.append(
            (
                f"**{peer.name}**" if peer.ours else peer.name,
                f"{_median(result):.0f} ({min(times):.0f} to {max(times):.0f})",
                f"{_median(peers[naive]) / _median(result):.2f}",
                f"{result['peak_bytes'] / 2**20:.0f}",
                "-" if name == reference else f"{result['difference']:.1e}",
            )
        )
    headers = ("", "ms", f"times as fast as {known[naive].name}", "peak MiB", "off by")
    note = f"Off by: the largest difference from {known[reference].name}, as a share of the peak."
    return f"{_table(headers, rows)}\n\n{note}"


def _sizes(points: Sequence[Results], case: Case) -> str:
    rows = []
    missing = False
    for point in points:
        height, width = point["size"]
        cells = []
        for name in CPU_PEERS:
            if not any(name in other["peers"] for other in points):
                continue
            result = point["peers"].get(name, {})
            missing |= "ms" not in result
            cells.append(
                f"{_median(result):.0f} ms, {result['peak_bytes'] / 2**20:.0f} MiB"
                if "ms" in result
                else "-"
            )
        rows.append((f"{width}x{height}", *cells))
    names = [peer.name for name, peer in CPU_PEERS.items() if name in points[0]["peers"]]
    note = (
        "\n\nA dash: it failed, or its memory, continued from the sizes before, would not fit."
        if missing
        else ""
    )
    return (
        f"## Against the number of pixels\n\n{case.title}. At the two largest the peers ran one "
        "after the other, twice each: together they would not fit into the memory.\n\n"
        "![Latency and memory against pixels](images/performance_sizes.svg)\n\n"
        f"{_table(('input', *names), rows)}{note}"
    )


def _nodes(results: Results, cases: Mapping[str, Case], keys: list[str]) -> str:
    text = (
        "## Where the time goes\n\nONNX Runtime's own profile; *reordering* is between its blocked "
        "layout and the plain one.\n\n![Time by kind of node](images/performance_nodes.svg)"
    )
    for key in keys:
        profile = results[key]["profile"]
        groups = {form: kind_groups(profile[form]) for form in ("naive", "ours")}
        rows = [
            (kind, *(f"{groups[form][kind]:.0f}" for form in groups)) for kind in groups["ours"]
        ]
        rows.append(("all", *(f"{profile[form]['total_ms']:.0f}" for form in groups)))
        text += f"\n\n{_heading(cases[key])}\n\n{_table(('kind', 'naive, ms', 'ours, ms'), rows)}"
        slowest = ", ".join(
            f"`{name}` {ms:.0f} ms" for ms, _, name in profile["naive"]["slowest"][:4]
        )
        text += f"\n\nSlowest nodes of the naive export: {slowest}. "
        slowest = ", ".join(
            f"`{name}` {ms:.0f} ms" for ms, _, name in profile["ours"]["slowest"][:4]
        )
        text += f"Of ours: {slowest}."
    return text


def _floor(results: Results, cases: Mapping[str, Case], keys: list[str]) -> str:
    ceilings = results["ceilings"]
    rows = []
    for key in keys:
        for form in ("naive", "ours"):
            cost = results[key]["cost"][form]
            compute_ms = cost["multiply_adds"] / ceilings["multiply_adds_per_s"] * 1e3
            moved_ms = cost["bytes"] / ceilings["bytes_per_s"] * 1e3
            peers = results[key]["peers"]
            names = [n for n in peers if n.startswith("ours") == (form == "ours")]
            names = [n for n in names if "ms" in peers[n] and CPU_PEERS[n].float32]
            best = min(names, key=lambda name: _median(peers[name]))
            rows.append(
                (
                    f"{cases[key].title}, {form}",
                    f"{cost['multiply_adds'] / 1e9:.1f} G",
                    f"{compute_ms:.0f}",
                    f"{cost['bytes'] / 1e9:.1f} GB",
                    f"{moved_ms:.0f}",
                    f"{CPU_PEERS[best].name} {_median(peers[best]):.0f}",
                    f"{_median(peers[best]) / compute_ms:.2f}",
                )
            )
    headers = (
        "",
        "multiply-adds",
        "at the ceiling, ms",
        "moved, nothing fused",
        "at the ceiling, ms",
        "fastest, ms",
        "by the floor",
    )
    return (
        "## The floor\n\nThe ceilings of this machine, measured before the networks: "
        f"{ceilings['multiply_adds_per_s'] / 1e9:.0f} G multiply-adds/s in a large convolution, "
        f"the trunk's, and {ceilings['bytes_per_s'] / 1e9:.1f} GB/s in a large copy. The floor is "
        "what the multiply-adds take at that rate, with all else hidden behind them. With nothing "
        "fused, what the nodes read and write would take the other time besides.\n\n"
        f"{_table(headers, rows)}"
    )


def _engines(results: Results, cases: Mapping[str, Case], keys: list[str]) -> str:
    rows = [
        (
            f"{cases[key].title}, {form}",
            str(engine["nodes"]),
            str(engine["layers"]),
            f"{engine['engine_bytes'] / 1e6:.1f} MB",
            f"{engine['activation_bytes'] / 1e6:.0f} MB",
        )
        for key in keys
        for form, engine in results[key]["engines"].items()
    ]
    headers = ("", "nodes in the file", "kernels", "engine", "activation memory")
    return (
        "## What TensorRT builds\n\nTensorRT for RTX, for SM89, float32, one size; its builder "
        f"needs no GPU, so nothing was run.\n\n{_table(headers, rows)}"
    )


def _gpu(results: Results, cases: Mapping[str, Case], keys: list[str]) -> str:
    measured = [key for key in keys if f"{key}_gpu" in results]
    if not measured:
        return (
            "## On a GPU\n\nNot measured: `scripts/studies/performance/study.py --gpu` does, where "
            "there is one."
        )
    ceilings = results["gpu_ceilings"]
    text = (
        f"## On a GPU\n\n{ceilings['multiply_adds_per_s'] / 1e12:.1f} T multiply-adds/s in a "
        f"half-precision matrix product, {ceilings['bytes_per_s'] / 1e9:.0f} GB/s in a copy."
    )
    for key in measured:
        text += f"\n\n{_heading(cases[key])}\n\n{_peer_table(results[f'{key}_gpu'], GPU_PEERS)}"
        if "cost" in results[key]:
            text += f"\n\n{_shares(results[f'{key}_gpu'], results[key]['cost'], ceilings)}"
    return text


def _shares(peers: Results, costs: Results, ceilings: Results) -> str:
    """What part of the GPU's ceilings, in half precision, each peer reaches."""
    shares = []
    for name, peer in GPU_PEERS.items():
        if "ms" not in peers.get(name, {}):
            continue
        cost = costs["ours" if peer.ours else "naive"]
        seconds = _median(peers[name]) / 1e3
        products = cost["multiply_adds"] / seconds / ceilings["multiply_adds_per_s"]
        moved = cost["bytes"] / seconds / ceilings["bytes_per_s"]
        shares.append(f"{peer.name} {products:.1%} and {moved:.1%}")
    return (
        "Of the ceilings of half-precision products and, with nothing fused, of copying: "
        + "; ".join(shares)
        + "."
    )


def _median(result: Results) -> float:
    times: list[float] = result["ms"]
    return statistics.median(times)


def _fastest(peers: Results, ours: bool) -> str:
    names: Iterator[str] = (
        name
        for name, peer in CPU_PEERS.items()
        if peer.ours == ours and peer.float32 and "ms" in peers[name]
    )
    return min(names, key=lambda name: _median(peers[name]))


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---", *["---:"] * (len(headers) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
