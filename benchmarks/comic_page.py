"""The page of benchmarks/comic.py: what its rows say, as Markdown."""

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def page(rows: Sequence[dict[str, Any]], options: argparse.Namespace, folders: Mapping[str, Path]) -> str:
    """docs/results/comic-*.md. folders: of the variants, with their pictures."""
    from paretune.search_space import Configuration

    traces = {name: good(rows, "trace", name) for name in options.variants}
    known = next((row for row in rows if "gpu" in row), {})
    blocks = max((len(found) for found in traces.values()), default=0)
    command = f"python benchmarks/comic.py --size {options.size} --device {options.device} --blocks {options.blocks}"
    lines = [
        "# The comic workflow",
        "",
        f"`{command}`: {known.get('gpu')}, torch {known.get('versions', {}).get('torch')}, diffusers "
        f"{known.get('versions', {}).get('diffusers')}, {os.cpu_count()} cores; n = {blocks} blocks of processes that "
        "take turns, each serving the whole trace once; medians over blocks. Two pipelines with one U-Net, IP-Adapters "
        "and LoRAs that come and go, batches, two sizes, matting, a 2x upscaler: studies/comic.yaml."
        + (" Random weights: times and memory are real, pictures are not." if options.size == "full" else ""),
        "",
    ]
    lines += [f"- {name}: {Configuration.of(techniques)}" for name, techniques in options.variants.items()]
    lines += ["", "## The mix", ""]
    head = ["", "s per request", "÷ reference", "÷ torch.compile", "waits after a swap, ms", "recompilations"]
    head += ["recorded graphs", "peak, GiB", "U-Net weights held", "difference"]
    lines += [_row(head), _row(["---"] * len(head))]
    mixes = {name: _mix(found) for name, found in traces.items()}
    for name, found in traces.items():
        if not found:
            reason = next((row["failed"] for row in reversed(rows) if row["variant"] == name and "failed" in row), "")
            lines.append(_row([name, f"not measured {reason}".strip(), *[""] * (len(head) - 2)]))
            continue
        last = found[-1]
        cells = [name, f"{mixes[name] / 1000:.3f}", _ratio(mixes, name, "reference")]
        cells += [_ratio(mixes, name, "torch.compile"), f"{_stall(found):.0f}"]
        cells += [str(sum(row["recompiles"] for row in found)), str(sum(row["recaptures"] for row in found))]
        cells.append("" if last["peak_gib"] is None else f"{max(row['peak_gib'] for row in found):.1f}")
        cells.append(
            f"{last['unet_bytes_held'] / 1e9:.2f} GB ({last['unet_bytes_held'] / last['unet_bytes_of_one']:.2f} times, "
            f"by {last['unets']} pipelines)"
        )
        lines.append(_row([*cells, _difference(name, folders)]))
    lines += ["", "## Each kind of request, ms (without a change of adapters before it)", ""]
    requests = list(
        dict.fromkeys(call["request"] for found in traces.values() for row in found for call in row["calls"])
    )
    lines += [_row(["", *requests]), _row(["---"] * (1 + len(requests)))]
    lines += [
        _row([name, *(f"{_median(found, request, swap=False):.0f}" for request in requests)])
        for name, found in traces.items()
        if found
    ]
    lines += ["", "## Stages of one request, ms", ""]
    for request in requests:
        split = {name: _stages(rows, name, request) for name in options.variants}
        split = {name: stages for name, stages in split.items() if stages}
        names = list(dict.fromkeys(stage for stages in split.values() for stage in stages))
        if names:
            lines += [_row([request, *names]), _row(["---"] * (1 + len(names)))]
            lines += [
                _row([name, *(f"{s[one]:.0f}" if one in s else "" for one in names)]) for name, s in split.items()
            ]
            lines.append("")
    lines += ["## A new worker, s (fresh process, empty caches; imports and weights apart)", ""]
    head = [
        "",
        "n",
        "processes that compiled at once",
        "imports",
        "weights",
        "apply",
        "until the first picture",
        "÷ torch.compile",
    ]
    head += ["until every request was served", "÷ torch.compile", "captures and misses"]
    lines += [_row(head), _row(["---"] * len(head))]
    # The process that was timed was a new worker once; started again, it finds its own caches.
    fresh = [row for row in rows if row["step"] == "worker" or (row["step"] == "warm" and row.get("fresh", True))]
    workers = {name: good(fresh, "warm", name) + good(fresh, "worker", name) for name in options.variants}
    for name, found in workers.items():
        if found:
            middle = {key: statistics.median(row[key] for row in found) for key in found[0] if key.endswith("_s")}
            cells = [
                name,
                str(len(found)),
                str(max(row.get("beside", 1) for row in found)),
                f"{middle['import_s']:.1f}",
                f"{middle['weights_s']:.1f}",
            ]
            cells.append(f"{middle['load_s']:.1f}")
            for key in ("until_first_image_s", "until_all_s"):
                theirs = [row[key] for row in workers.get("torch.compile", [])]
                ratio = f"1/{statistics.median(theirs) / middle[key]:.1f}" if theirs else ""
                cells += [f"{middle[key]:.1f}", ratio]
            lines.append(_row([*cells, json.dumps(found[-1]["counters"]) if found[-1]["counters"] else ""]))
    built = [row for row in rows if row["step"] == "build" and "failed" not in row]
    said = "; ".join(f"{row['variant']} {row['build_s']:.0f} s ({row['beside']} processes at once)" for row in built)
    lines += ["", f"Building it before: {said}."] if built else []
    return "\n".join([*lines, ""])


def good(rows: Sequence[dict[str, Any]], step: str, name: str) -> list[dict[str, Any]]:
    """The rows of a step of a variant that have figures."""
    return [row for row in rows if row["step"] == step and row["variant"] == name and "failed" not in row]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio(mixes: dict[str, float], name: str, other: str) -> str:
    return f"{mixes[name] / mixes[other]:.3f}" if mixes.get(other) else ""


def _mix(found: Sequence[dict[str, Any]]) -> float:
    """Mean over the trace as it was given, stalls included; the median of the blocks. 0 without any."""
    means = [statistics.fmean(call["ms"] for call in row["calls"] if not call["extra"]) for row in found]
    return statistics.median(means) if means else 0.0


def _median(found: Sequence[dict[str, Any]], request: str, *, swap: bool) -> float:
    calls = [call["ms"] for row in found for call in row["calls"] if (call["request"], call["swap"]) == (request, swap)]
    return statistics.median(calls) if calls else float("nan")


def _stall(found: Sequence[dict[str, Any]]) -> float:
    """What a request waits extra after a change of adapters: the mean over the trace's changes."""
    swapped = [call["request"] for call in found[0]["calls"] if call["swap"]]
    extra = [_median(found, name, swap=True) - _median(found, name, swap=False) for name in swapped]
    return statistics.fmean(max(0.0, each) for each in extra) if extra else 0.0


def _stages(rows: Sequence[dict[str, Any]], name: str, request: str) -> dict[str, float]:
    found = good(rows, "stages", name)
    if not found or request not in found[-1]["stages"]:
        return {}
    split = found[-1]["stages"][request]
    times = {
        stage: one["wall_ms"] if one.get("gpu_ms") is None else one["gpu_ms"] for stage, one in split["stages"].items()
    }
    return {**times, "the rest": split["other_ms"]}


def _difference(name: str, folders: Mapping[str, Path]) -> str:
    """Of the pictures, relative (L2), the worst request; "none" where every bit is the same."""
    import torch

    files = [folders[one] / "pictures.pt" for one in (name, "reference") if one in folders]
    if len(files) < 2 or not all(file.exists() for file in files):
        return ""
    ours, theirs = (torch.load(file, weights_only=True) for file in files)
    worst = max(float((ours[one] - theirs[one]).norm() / theirs[one].norm()) for one in theirs)
    return "none" if worst == 0 else f"{worst:.1e}"
