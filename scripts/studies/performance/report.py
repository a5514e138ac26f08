"""Write docs/results/performance.md from the measurements."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from studies.pages import table
from studies.performance.draw import kind_groups
from studies.performance.networks import SWEPT, Case
from studies.performance.peers import CPU_PEERS, GPU_PEERS, Peer

Results = Mapping[str, Any]


def page(results: Results, cases: Mapping[str, Case]) -> str:
    """The whole page in Markdown."""
    measured = {key: case for key, case in cases.items() if key in results}
    parts = [_method(results), _targets(results, cases), _peers(results, measured)]
    if "sweep" in results:
        parts.append(_sizes(results["sweep"], cases[SWEPT]))
    if "choices" in results:
        parts.append(_choices(results["choices"]))
    for needed, part in (
        ("profile", _nodes),
        ("int8_profile", _int8_nodes),
        ("cost", _floor),
        ("engines", _engines),
    ):
        if having := {key: case for key, case in measured.items() if needed in results[key]}:
            parts.append(part(results, having))
    parts.append(_gpu(results, measured))
    return "\n\n".join(parts) + "\n"


def _method(results: Results) -> str:
    machine = results["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    bf16 = "This CPU has no bfloat16 instructions: asked for it, OpenVINO computes in float32.\n"
    if {"avx512_bf16", "amx_bf16"} & set(machine["instructions"]):
        bf16 = ""
    return f"""# Performance

Written by `scripts/studies/performance/study.py`; every figure comes from
[its JSON](performance.json).

Measured on {machine["date"]}: {machine["cpu"]}, {machine["cores"]} cores
({", ".join(machine["instructions"])}), {machine["memory_bytes"] / 2**30:.0f} GiB, Python
{machine["python"]}, {packages}.

Each peer is a separate process, loaded and warmed up. The peers take turns, one inference each, so
that other load on the machine affects all of them. Figures are medians, with the fastest and the
slowest in brackets; memory is the peak of the process, including its imports. All peers have the
same weights, in float32 unless stated otherwise, and their outputs are compared.
{bf16}
- **PyTorch eager**: `channels_last`, `inference_mode`. **torch.compile**: the same, compiled.
- **naive export**: `torch.onnx.export` of the network, unchanged.
- **ours**: `adadm export`, defaults. ONNX Runtime and OpenVINO have the settings of
  `adadm.runtime`, for the naive export too."""


def _targets(results: Results, cases: Mapping[str, Case]) -> str:
    """Table of the toolkit's promises and the measured figures."""
    rows = []

    def promise(key: str, text: str, least: float, seen: float) -> None:
        kept = "yes" if seen >= least else "**missed**"
        rows.append((f"{cases[key].title}: {text}", f"{least:g}", f"{seen:.2f}", kept))

    for key, speedup, against_all in (("edsr_x4", 1.7, 1.3), ("edsr_x2", 1.1, 1.0)):
        peers = results.get(key, {}).get("peers", {})
        naive, ours = (peers.get(f"{form}_onnxruntime", {}) for form in ("naive", "ours"))
        if "ms" not in naive or "ms" not in ours:
            continue
        text = "ours against the naive export, both on ONNX Runtime"
        promise(key, text, speedup, _median(naive) / _median(ours))
        theirs, best = (_fastest(peers, ours=is_ours) for is_ours in (False, True))
        text = f"{CPU_PEERS[best].name} against the fastest peer ({CPU_PEERS[theirs].name})"
        promise(key, text, against_all, _median(peers[theirs]) / _median(peers[best]))
        if key == "edsr_x4":
            ratio = naive["peak_bytes"] / ours["peak_bytes"]
            promise(key, "peak memory, naive by ours, ONNX Runtime", 2.0, ratio)
            engines = results[key]["engines"]
            ratio = engines["naive"]["activation_bytes"] / engines["ours"]["activation_bytes"]
            promise(key, "activation memory of the engine, naive by ours", 6.0, ratio)
    peers = results.get("bundled_x4", {}).get("peers", {})
    if "ms" in peers.get("int8_openvino", {}):
        text = "INT8 on OpenVINO against the naive float32 export, ONNX Runtime"
        ratio = _median(peers["naive_onnxruntime"]) / _median(peers["int8_openvino"])
        promise("bundled_x4", text, 6.0, ratio)
    head = ("target", "at least", "measured", "reached")
    return f"## Targets\n\n{table(head, rows, numbers=True)}"


def _peers(results: Results, cases: Mapping[str, Case]) -> str:
    text = "## Latency and memory\n\n![Latency of every peer](../images/performance_peers.svg)"
    for key, case in cases.items():
        text += f"\n\n{_heading(case)}\n\n{_peer_table(results[key]['peers'], CPU_PEERS)}"
    return text


def _heading(case: Case) -> str:
    height, width = case.size
    return f"### {case.title}, from {width}x{height}"


def _peer_table(results: Results, peers: Mapping[str, Peer]) -> str:
    reference = next(name for name in peers if "ms" in results.get(name, {}))
    naive = next((n for n in results if n.startswith("naive") and "ms" in results[n]), reference)
    rows = []
    for name, peer in peers.items():
        if name not in results:
            continue
        result = results[name]
        if "failure" in result:
            rows.append((peer.name, f"failed: {result['failure']}", "", "", ""))
            continue
        times = result["ms"]
        rows.append(
            (
                f"**{peer.name}**" if peer.ours else peer.name,
                f"{_median(result):.0f} ({min(times):.0f} to {max(times):.0f})",
                f"{_median(results[naive]) / _median(result):.2f}",
                f"{result['peak_bytes'] / 2**20:.0f}",
                "-" if name == reference else f"{result['difference']:.1e}",
            )
        )
    head = ("", "ms", f"times as fast as {peers[naive].name}", "peak MiB", "error")
    note = f"Error: the largest difference from {peers[reference].name}, as a share of the peak."
    return f"{table(head, rows, numbers=True)}\n\n{note}"


def _sizes(points: Sequence[Results], case: Case) -> str:
    names = [name for name in CPU_PEERS if any(name in point["peers"] for point in points)]
    rows = []
    for point in points:
        height, width = point["size"]
        results = [point["peers"].get(name, {}) for name in names]
        cells = (
            f"{_median(result):.0f} ms, {result['peak_bytes'] / 2**20:.0f} MiB"
            if "ms" in result
            else "-"
            for result in results
        )
        rows.append((f"{width}x{height}", *cells))
    note = "\n\nA dash: the peer failed, or its extrapolated memory exceeds that of the machine."
    head = ("input", *(CPU_PEERS[name].name for name in names))
    return (
        f"## By number of pixels\n\n{case.title}. At the two largest sizes the peers ran one "
        "after the other, twice each: together they would exceed the memory.\n\n"
        "![Latency and memory against pixels](../images/performance_sizes.svg)\n\n"
        f"{table(head, rows, numbers=True)}{note if any('-' in row for row in rows) else ''}"
    )


def _nodes(results: Results, cases: Mapping[str, Case]) -> str:
    text = (
        "## Time by kind of node\n\nProfile of ONNX Runtime; *reordering* converts between its "
        "blocked layout and the plain one.\n\n"
        "![Time by kind of node](../images/performance_nodes.svg)"
    )
    for key, case in cases.items():
        profiles = results[key]["profile"]
        text += (
            f"\n\n{_heading(case)}\n\n{_kind_table(profiles)}\n\n"
            f"Slowest nodes of the naive export: {_slowest(profiles['naive'])}. "
            f"Of ours: {_slowest(profiles['ours'])}."
        )
    return text


def _kind_table(profiles: Mapping[str, Results]) -> str:
    """Table of the time by kind of node, with a column for each profile."""
    groups = kind_groups(*profiles.values())
    rows = [(kind, *(f"{group[kind]:.0f}" for group in groups)) for kind in groups[0]]
    rows.append(("all", *(f"{profile['total_ms']:.0f}" for profile in profiles.values())))
    return table(("kind", *(f"{name}, ms" for name in profiles)), rows, numbers=True)


def _int8_nodes(results: Results, cases: Mapping[str, Case]) -> str:
    text = (
        "## Time of the INT8 models by kind of node\n\nProfile of OpenVINO. Before, a model took "
        "any number of images at once, and a modulator added its shift to the trunk first.\n\n"
        "![Time by kind of node, INT8](../images/performance_int8.svg)"
    )
    for key, case in cases.items():
        text += f"\n\n{_heading(case)}\n\n{_kind_table(results[key]['int8_profile'])}"
    return text


def _choices(measured: Sequence[Results]) -> str:
    """Table of what `auto` chooses, and what it loses."""
    rows = []
    for row in measured:
        ms = {
            name: _median(row["peers"][peer])
            for name, peer in (("cpu", "ours_onnxruntime"), ("openvino", "ours_openvino"))
        }
        chosen, (height, width) = row["auto"]["fastest"], row["size"]
        timed = row["auto"]["seconds"]
        rows.append(
            (
                f"{row['title']}, x{row['upscale']}, {row['precision']}",
                f"{width}x{height}",
                *(f"{ms[name]:.0f}" for name in ms),
                f"{chosen} ({', '.join(f'{1e3 * timed[name]:.0f}' for name in ms)})",
                f"{ms[chosen] / min(ms.values()):.2f}",
            )
        )
    head = ("", "input", "ONNX Runtime, ms", "OpenVINO, ms", "`auto` (what it timed, ms)")
    return (
        "## What `auto` chooses\n\nBy one timing of each model on a small image, ONNX Runtime "
        "first; the last column is the time on its choice by that on the better backend.\n\n"
        f"{table((*head, 'by the better'), rows, numbers=True)}"
    )


def _slowest(profile: Results) -> str:
    return ", ".join(f"`{name}` {ms:.0f} ms" for ms, _, name in profile["slowest"][:4])


def _floor(results: Results, cases: Mapping[str, Case]) -> str:
    ceilings = results["ceilings"]
    rows = []
    for key, case in cases.items():
        peers = results[key]["peers"]
        for form in ("naive", "ours"):
            cost = results[key]["cost"][form]
            compute_ms = cost["multiply_adds"] / ceilings["multiply_adds_per_s"] * 1e3
            moved_ms = cost["bytes"] / ceilings["bytes_per_s"] * 1e3
            best = _fastest(peers, ours=form == "ours")
            rows.append(
                (
                    f"{case.title}, {form}",
                    f"{cost['multiply_adds'] / 1e9:.1f} G",
                    f"{compute_ms:.0f}",
                    f"{cost['bytes'] / 1e9:.1f} GB",
                    f"{moved_ms:.0f}",
                    f"{CPU_PEERS[best].name} {_median(peers[best]):.0f}",
                    f"{_median(peers[best]) / compute_ms:.2f}",
                )
            )
    ceiling = "at the limit, ms"
    head = ("", "multiply-adds", ceiling, "moved, without fusion", ceiling, "fastest, ms")
    return (
        "## Lower bound\n\nLimits of this machine, measured before the networks: "
        f"{ceilings['multiply_adds_per_s'] / 1e9:.0f} G multiply-adds/s in a large convolution of "
        f"the trunk, and {ceilings['bytes_per_s'] / 1e9:.1f} GB/s in a large copy. The lower bound "
        "is the time of the multiply-adds at that rate, with everything else hidden behind them. "
        "Without fusion, reading and writing the tensors would take the other time in addition.\n\n"
        f"{table((*head, 'by the bound'), rows, numbers=True)}"
    )


def _engines(results: Results, cases: Mapping[str, Case]) -> str:
    rows = [
        (
            f"{case.title}, {form}",
            str(engine["nodes"]),
            str(engine["layers"]),
            f"{engine['engine_bytes'] / 1e6:.1f} MB",
            f"{engine['activation_bytes'] / 1e6:.0f} MB",
        )
        for key, case in cases.items()
        for form, engine in results[key]["engines"].items()
    ]
    head = ("", "nodes in the file", "kernels", "engine", "activation memory")
    return (
        "## What TensorRT builds\n\nTensorRT for RTX, for SM89, float32, one size; its builder "
        f"needs no GPU; nothing was run.\n\n{table(head, rows, numbers=True)}"
    )


def _gpu(results: Results, cases: Mapping[str, Case]) -> str:
    measured = {key: case for key, case in cases.items() if f"{key}_gpu" in results}
    if not measured:
        return (
            "## On a GPU\n\nNot measured. `scripts/studies/performance/study.py --gpu` measures it "
            "on a machine with a GPU."
        )
    ceilings = results["gpu_ceilings"]
    text = (
        f"## On a GPU\n\n{ceilings['multiply_adds_per_s'] / 1e12:.1f} T multiply-adds/s in a "
        f"half-precision matrix product, {ceilings['bytes_per_s'] / 1e9:.0f} GB/s in a copy."
    )
    for key, case in measured.items():
        peers = results[f"{key}_gpu"]
        text += f"\n\n{_heading(case)}\n\n{_peer_table(peers, GPU_PEERS)}"
        if "cost" in results[key]:
            text += f"\n\n{_shares(peers, results[key]['cost'], ceilings)}"
    return text


def _shares(peers: Results, costs: Results, ceilings: Results) -> str:
    """Shares of the GPU's half-precision ceilings that each peer reaches."""
    shares = []
    for name, peer in GPU_PEERS.items():
        if "ms" not in peers.get(name, {}):
            continue
        cost = costs["ours" if peer.ours else "naive"]
        seconds = _median(peers[name]) / 1e3
        products = cost["multiply_adds"] / seconds / ceilings["multiply_adds_per_s"]
        moved = cost["bytes"] / seconds / ceilings["bytes_per_s"]
        shares.append(f"{peer.name} {products:.1%} and {moved:.1%}")
    text = "Share of the limits of half-precision products and, without fusion, of copying: "
    return f"{text}{'; '.join(shares)}."


def _median(result: Results) -> float:
    times: list[float] = result["ms"]
    return statistics.median(times)


def _fastest(peers: Results, *, ours: bool) -> str:
    names = [
        n for n, p in CPU_PEERS.items() if p.ours == ours and p.float32 and "ms" in peers.get(n, {})
    ]
    return min(names, key=lambda name: _median(peers[name]))
