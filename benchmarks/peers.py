"""Full-size SDXL under several configurations, in the same blocks: how the winners compare with what people do today.

    python benchmarks/peers.py --out peers.json            # on a CUDA GPU; about ten minutes
    python benchmarks/peers.py --only eager --only compiled

Each contender loads, compiles and warms up in a process of its own, all of them side by side; then they take turns,
one call each per block, so that a disturbance hits all of them. Random weights: times and memory are real, pictures
are not. Prints a Markdown table: the median of the blocks' ratios to torch.compile's default mode with the lowest and
the highest, and the share of the wall time in which the GPU was busy (kernels of one more call, recorded by
torch.profiler, over the median call without the profiler).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BASELINE = "compiled"
CONTENDERS: dict[str, dict[str, dict[str, Any]]] = {
    "eager": {},
    "compiled": {"torch_compile": {"region": "whole", "mode": "default"}},
    "compiled, reduce-overhead": {
        "channels_last": {},
        "torch_compile": {"region": "whole", "mode": "reduce-overhead"},
    },
    "graphs": {"vae_dtype": {"dtype": "float32"}, "cuda_graphs": {"modules": "denoiser_vae_text"}},
    "lossless": {
        "vae_dtype": {"dtype": "float32"},
        "cudnn_benchmark": {},
        "fused_qkv": {},
        "channels_last": {},
        "torch_compile": {"region": "whole", "mode": "default"},
        "torch_compile_vae": {"parts": "decoder", "mode": "default"},
        "cuda_graphs": {"modules": "denoiser_vae_text"},
    },
    "near-lossless": {
        "vae_dtype": {"dtype": "bfloat16"},
        "cudnn_benchmark": {},
        "fused_qkv": {},
        "channels_last": {},
        "deepcache": {"interval": 2, "branch": 0, "full_percent": 0},
        "torch_compile": {"region": "whole", "mode": "default"},
        "torch_compile_vae": {"parts": "decoder", "mode": "default"},
        "cuda_graphs": {"modules": "denoiser_vae_text"},
    },
    "fastest": {
        "vae_dtype": {"dtype": "bfloat16"},
        "cudnn_benchmark": {},
        "fused_qkv": {},
        "channels_last": {},
        "deepcache": {"interval": 5, "branch": 0, "full_percent": 0},
        "torch_compile": {"region": "whole", "mode": "default"},
        "torch_compile_vae": {"parts": "decoder", "mode": "default"},
        "cuda_graphs": {"modules": "denoiser_vae_text"},
    },
}


def serve(name: str, folder: Path, out: Any) -> None:
    """A contender's process: answers each line of standard input with one line of JSON."""
    import torch
    from paretune.objectives.measuring import load_file
    from paretune.objectives.measuring.latency import time_call_ms
    from paretune.search_space import Configuration, technique

    def say(**what: Any) -> None:
        print(json.dumps(what), file=out, flush=True)

    workload = load_file(folder / "workload.py", "workload").Workload.read(folder)
    pipelines = workload.load("cuda")
    request = workload.requests[0]
    configuration = Configuration.of(CONTENDERS[name])
    started = time.perf_counter()
    load_file(folder / "apply.py", "apply").apply(pipelines)
    applied_s = time.perf_counter() - started

    def run() -> tuple[float, Any]:
        return time_call_ms(lambda: workload.run(pipelines, request), "cuda")

    def patiently() -> tuple[float, Any]:
        """Processes share the GPU: while others hold its memory, wait."""
        for _ in range(60):
            try:
                return run()
            except Exception as error:
                if "out of memory" not in str(error).lower():
                    raise
                print(f"{name}: waits for memory", file=sys.stderr, flush=True)
            torch.cuda.empty_cache()
            time.sleep(3)
        raise RuntimeError("the GPU's memory never sufficed")

    first_ms, pictures = patiently()
    torch.save(pictures.float().cpu(), folder / "pictures.pt")
    torch.cuda.empty_cache()
    for _ in range(2):
        patiently()
        torch.cuda.empty_cache()
    for step in configuration.steps:
        reason = technique(step.technique).took_effect(pipelines, **step.values())
        if reason is not None:
            raise RuntimeError(f"{step.technique} took no effect: {reason}")
    say(ready=True, applied_s=applied_s, first_call_s=first_ms / 1e3, key=configuration.key)
    for line in sys.stdin:
        if line.strip() == "time":
            run()  # the clocks rise, and the caching allocator asks for memory
            torch.cuda.reset_peak_memory_stats()
            milliseconds, _ = run()
            say(milliseconds=milliseconds, peak_gib=torch.cuda.max_memory_reserved() / 2**30)
            torch.cuda.empty_cache()
        elif line.strip() == "profile":
            say(**profile(run))


def profile(run: Any) -> dict[str, Any]:
    """GPU time of one call, by kind of kernel, in ms, and in how much of it any kernel ran."""
    import torch
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as recorded:
        run()
    spans, by_kind = [], {}
    for event in recorded.profiler.kineto_results.events():
        if event.device_type() != torch.autograd.DeviceType.CUDA:
            continue
        start_ns, duration_ns = event.start_ns(), event.duration_ns()
        spans.append((start_ns, start_ns + duration_ns))
        kind = kernel_kind(event.name())
        by_kind[kind] = by_kind.get(kind, 0.0) + duration_ns / 1e6
    busy_ns, end_ns = 0, 0
    for start_ns, stop_ns in sorted(spans):
        busy_ns += max(0, stop_ns - max(start_ns, end_ns))
        end_ns = max(end_ns, stop_ns)
    return {"busy_ms": busy_ns / 1e6, "kernels": len(spans), "by_kind_ms": by_kind}


def kernel_kind(name: str) -> str:
    """A class of kernels by the name that the profiler gives."""
    low = name.lower()
    for kind, words in {
        "attention": ("flash", "fmha", "sdpa", "attention"),
        "convolution": ("conv", "fprop", "cudnn", "xmma_fprop", "implicit"),
        "matrix product": ("gemm", "nvjet", "cutlass", "cublas", "splitk"),
        "triton": ("triton",),
        "copy": ("memcpy", "memset", "copy"),
    }.items():
        if any(word in low for word in words):
            return kind
    return "other"


def prepare(folder: Path, name: str, steps: int) -> None:
    """The trial folder of a contender."""
    from paretune.agent.trial.folder import write_trial_folder
    from paretune.search_space import Configuration, apply_source
    from paretune.studies import read_study

    overrides = ["workload.pipelines.main.weights=random"]
    workload = dict(read_study("sdxl", settings=overrides).workload_description())
    workload["requests"] = [{**workload["requests"][0], "steps": steps}]
    configuration = Configuration.of(CONTENDERS[name])
    write_trial_folder(folder, configuration.to_dict(), workload, apply_source(configuration))


def main() -> None:
    """Start the contenders, let them take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=CONTENDERS, help="a contender; by default all")
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--build-s", type=float, default=420.0, help="who is not ready by then is left out")
    parser.add_argument("--out", type=Path, default=Path("peers.json"))
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        # What libraries print must not come between the answers.
        out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        serve(options.serve[0], Path(options.serve[1]), out)
        return
    names = options.only or list(CONTENDERS)
    root = Path(tempfile.mkdtemp())
    processes: dict[str, Any] = {}
    began = time.perf_counter()
    for index, name in enumerate(names):
        folder = root / str(index)
        prepare(folder, name, options.steps)
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
        environment.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")
        processes[name] = subprocess.Popen(
            [sys.executable, __file__, "--serve", name, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
    results: dict[str, dict[str, Any]] = {}
    for name, process in processes.items():
        answer = answer_of(process, began + options.build_s)
        took_s = time.perf_counter() - began
        print(f"{took_s:6.1f} s  {name}: {answer or 'not ready'}", file=sys.stderr, flush=True)
        if answer is None:
            process.kill()
        else:
            results[name] = {**answer, "milliseconds": []}
    for _ in range(options.blocks):
        for name, result in results.items():
            told = ask(processes[name], "time")
            result["milliseconds"].append(told["milliseconds"])
            result["peak_gib"] = told["peak_gib"]
    for name, result in results.items():
        result |= ask(processes[name], "profile")
        result["busy_share"] = result["busy_ms"] / statistics.median(result["milliseconds"])
        result["difference"] = difference(root, names.index(name), names.index("eager") if "eager" in names else 0)
    options.out.write_text(json.dumps({"schema": 1, "versions": versions(), "results": results}, indent=1))
    print(table(results))
    for process in processes.values():
        process.kill()


def answer_of(process: Any, until: float) -> dict[str, Any] | None:
    """The next line of a process, or None when it ended or time is up."""
    import select

    ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.perf_counter()))
    line = process.stdout.readline() if ready else ""
    return json.loads(line) if line else None


def ask(process: Any, question: str) -> dict[str, Any]:
    """Send a line, wait for the answer."""
    process.stdin.write(question + "\n")
    process.stdin.flush()
    return dict(json.loads(process.stdout.readline()))


def difference(root: Path, index: int, reference: int) -> float:
    """How far a contender's first pictures lie from the unchanged pipeline's, relative (L2)."""
    import torch

    ours, theirs = (torch.load(root / str(i) / "pictures.pt", weights_only=True) for i in (index, reference))
    return float((ours - theirs).norm() / theirs.norm())


def versions() -> dict[str, str]:
    """The GPU and the packages that decide."""
    import diffusers
    import torch

    return {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "diffusers": diffusers.__version__}


def table(results: dict[str, dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "| contender | ms (median) | ÷ torch.compile (all blocks) | GPU busy | first call s | GiB | moved |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    baseline = results.get(BASELINE, next(iter(results.values())))["milliseconds"]
    for name, result in results.items():
        ratios = [ours / theirs for ours, theirs in zip(result["milliseconds"], baseline, strict=True)]
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        lines.append(
            f"| {name} | {statistics.median(result['milliseconds']):.0f} | {spread} | {result['busy_share']:.0%} | "
            f"{result['first_call_s']:.0f} | {result['peak_gib']:.1f} | {result['difference']:.1e} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
