"""benchmarks/techniques.py: results row by row, whatever becomes of a process, and the page made of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import techniques
from techniques import PLAIN, Bench, Lanes, Variant, read_rows
from techniques_page import write_page

MACHINE = {
    "device_name": "NVIDIA H100",
    "cpu_model": "AMD EPYC",
    "driver": "580",
    "cuda": "13.0",
    "python": "3.12",
    "packages": {"torch": "2.11.0", "triton": None},
}


def row(variant: str, outcome: str = "complete", run: int = 1, **more: Any) -> dict[str, Any]:
    technique = variant.partition("(")[0]
    measured = {"applied_s": 0.5, "first_call_s": 1.5, "peak_gib": 8.0} if outcome == "complete" else {}
    found = {"kind": "variant", "technique": technique, "variant": variant, "outcome": outcome, "run": run}
    return {**found, **measured, **more}


def reference(at: float, ms: float, run: int = 1) -> dict[str, Any]:
    return {"kind": "reference", "at": [at, at + 1], "milliseconds": [ms, ms], "run": run}


def page_of(folder: Path, *rows: dict[str, Any], assessed: bool = False) -> str:
    made = {"fingerprint": MACHINE, "steps": 8, "side_px": 1024, "calls": 3, "workers": 7, "cores": 16}
    begun = [{"kind": "run", "run": 1, "assessed": assessed, **made}, {"kind": "unchanged", "peak_gib": 9.5}]
    lines = [*begun, *rows]
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "sdxl-cuda.jsonl").write_text(text + '\n{"kind": "variant", "techni')  # a run that was killed
    write_page(folder, folder / "page.md")
    return (folder / "page.md").read_text()


def line_of(page: str, variant: str) -> str:
    return next(line for line in page.splitlines() if line.startswith(f"| `{variant}"))


def test_a_ratio_is_to_the_unchanged_pipeline_just_before_and_just_after(tmp_path: Path) -> None:
    page = page_of(
        tmp_path,
        reference(0, 50),
        reference(10, 90),
        row("fused_qkv", at=[20, 21], milliseconds=[55, 50, 60]),
        reference(30, 110),
        reference(40, 50),
        reference(19, 5, run=2),
    )
    assert "**0.55** (0.50 to 0.60), 8.00 GiB, first call 2.0 s |" in line_of(page, "fused_qkv")


def test_each_run_is_described_by_its_own_machine(tmp_path: Path) -> None:
    later = {"fingerprint": {**MACHINE, "driver": "590"}, "steps": 8, "side_px": 1024, "calls": 3, "cores": 4}
    page = page_of(
        tmp_path,
        reference(0, 50),
        {"kind": "run", "run": 2, "assessed": False, "workers": 2, "note": "It was busy.", **later},
        reference(9, 80, run=2),
    )
    first = "first run, 7 processes on 16 cores: unchanged 50 ms a call (50 to 50 in 2 calls), machine 1"
    assert (
        f"{first}; second run, 2 processes on 4 cores: unchanged 80 ms a call (80 to 80 in 2 calls), machine 2" in page
    )
    assert "It was busy." in page
    assert page.index("machine 1: ") < page.index("driver 580") < page.index("machine 2: ") < page.index("driver 590")


def test_the_page_says_what_is_refused_what_fails_and_what_is_not_there(tmp_path: Path) -> None:
    page = page_of(
        tmp_path,
        row("torch_tensorrt", "refused", reason="torch_tensorrt: the package torch-tensorrt is not installed"),
        row("vae_slicing", "oom", reason="out of memory"),
        row("channels_last", "unfinished", reason="not ready after 400 s, beside others"),
        row("channels_last", "crash", reason="the process was ended by signal 11"),
    )
    assert "| refused: the package torch-tensorrt is not installed |" in line_of(page, "torch_tensorrt")
    assert "| fails: out of memory |" in line_of(page, "vae_slicing")
    assert "| fails: the process was ended by signal 11 |" in line_of(page, "channels_last")  # the newest counts
    assert "all 13 variants | not measured |" in line_of(page, "torch_compile`")
    for words in ("1 refused, 2 fails", "NVIDIA H100", "torch 2.11.0"):
        assert words in page
    assert "Pictures are not judged: weights are random." in page


def test_a_verdict_stands_there_where_pictures_mean_something(tmp_path: Path) -> None:
    judged = row("fused_qkv", at=[2, 3], milliseconds=[5], verdict="near-lossless", drift=1.25, pictures=6)
    page = page_of(tmp_path, reference(0, 10), judged, assessed=True)
    assert "**0.50** (0.50 to 0.50), 8.00 GiB, first call 2.0 s, near-lossless (1.25) |" in line_of(page, "fused_qkv")


def test_a_process_that_dies_or_takes_too_long_leaves_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(bench: Bench, variant: Variant, folder: Path) -> dict[str, Any]:
        if variant.technique == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if variant.technique == "sleeps":
            time.sleep(600)
        return {"outcome": "complete"}

    monkeypatch.setattr(techniques, "measure", measure)
    bench = Bench("cpu", {}, False, 1, tmp_path, tmp_path / "results.jsonl", run=1.0)
    waiting = [Variant(name, {}, name, PLAIN, True) for name in ("dies", "sleeps", "works")]
    Lanes(bench, waiting, workers=2, until=time.monotonic() + 1).run()
    outcomes = {row["variant"]: (row["outcome"], row.get("reason", "")) for row in read_rows(bench.results)}
    assert outcomes["works"] == ("complete", "")
    assert outcomes["dies"] == ("crash", "the process was ended by signal 9")
    assert outcomes["sleeps"][0] == "unfinished"


@pytest.mark.slow
def test_a_run_measures_what_is_not_measured_yet(tmp_path: Path) -> None:
    script = Path(techniques.__file__)
    command = [sys.executable, str(script), "--tiny", "--device", "cpu", "--out", str(tmp_path), "--workers", "1"]
    for only in (["fused_qkv"], ["fused_qkv", "cudnn_benchmark"]):
        subprocess.run([*command, *(f"--only={name}" for name in only)], check=True)
    rows = read_rows(tmp_path / "tiny-cpu.jsonl")
    assert [row["outcome"] for row in rows if row["kind"] == "variant"] == ["complete", "refused"]
    assert sum(row["kind"] == "reference" for row in rows) >= 3


def test_the_gpu_s_share_is_to_the_unchanged_pipeline_s(tmp_path: Path) -> None:
    busy = {"kind": "unchanged", "peak_gib": 9.5, "busy_ms": 40.0}
    measured = row("fused_qkv", at=[20, 21], milliseconds=[90], busy_ms=30.0)
    page = page_of(tmp_path, busy, reference(0, 100), measured, row("tf32", at=[22, 23], milliseconds=[90]))
    assert "of the GPU's work 0.75, 8.00 GiB" in line_of(page, "fused_qkv")
    assert "of the GPU's work" not in line_of(page, "tf32")
