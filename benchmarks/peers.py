"""Full-size SDXL under several configurations, in the same blocks: how the winners compare with what people do today.

    python benchmarks/peers.py --out peers.json            # on a CUDA GPU; under nine minutes
    python benchmarks/peers.py --only eager --only compiled

Contenders whose package is not installed are left out, or stand for it with what paretune has of the same. The
diffusion-fast recipe tries kernels for many minutes: give it --build-s, and --only to run it beside the baselines.
Every contender needs some 10 GiB: on 80 GiB, name those of interest with --only.

Each contender loads, compiles and warms up in a process of its own, all of them side by side; then they take turns,
one call each per block, so that a disturbance hits all of them. What is known is written after each block, and who
ends meanwhile is left out of it. Random weights: times and memory are real, pictures
are not. Prints a Markdown table: the median of the blocks' ratios to torch.compile's default mode with the lowest and
the highest, and the share of the wall time in which the GPU was busy (kernels of one more call, recorded by
torch.profiler, over the median call without the profiler).
"""

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASELINE, BEST_BASELINE = "compiled", "compiled, reduce-overhead"
Techniques = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Contender:
    """One way to run the pipeline."""

    title: str
    """For the table."""
    techniques: Techniques
    also: Callable[[Any], None] | None = None
    """What somebody else's package does to the pipeline, after the techniques."""
    package: str | None = None
    """The module that has to be there."""
    instead: "Contender | None" = None
    """What stands for it where it is not; without, it is left out."""

    def here(self) -> "Contender | None":
        """What runs on this machine."""
        there = self.package is None or importlib.util.find_spec(self.package) is not None
        return self if there else self.instead


def deepcache_helper(pipeline: Any) -> None:
    """DeepCache's own helper at interval 2, and torch.compile of every layer that it may skip.

    The layers are compiled one by one, because the helper decides in Python, in each step, which of them run.
    """
    import torch
    from DeepCache import DeepCacheSDHelper

    helper = DeepCacheSDHelper(pipe=pipeline)
    helper.set_params(cache_interval=2, cache_branch_id=0)
    helper.enable()
    torch._dynamo.config.recompile_limit = 256
    for place, forward in list(helper.function_dict.items()):
        if place != "unet_forward" and place[1] != "block":
            helper.function_dict[place] = torch.compile(forward)


def _ours(interval: int | None, vae: str) -> Techniques:
    """What paretune's recipes do."""
    cache = {} if interval is None else {"deepcache": {"interval": interval, "branch": 0, "full_percent": 0}}
    return {
        "vae_dtype": {"dtype": vae},
        "cudnn_benchmark": {},
        "fused_qkv": {},
        "channels_last": {},
        **cache,
        "torch_compile": {"region": "whole", "mode": "default"},
        "torch_compile_vae": {"parts": "decoder", "mode": "default"},
        "cuda_graphs": {"modules": "denoiser_vae_text"},
    }


_WHOLE = {"region": "whole", "mode": "default"}
# https://github.com/huggingface/diffusion-fast, whose VAE runs in bfloat16 as well. Minutes of trying kernels.
_DIFFUSION_FAST: Techniques = {
    "dtype": {"dtype": "bfloat16"},
    "fused_qkv": {},
    "channels_last": {},
    "torch_compile": {"region": "whole", "mode": "max-autotune", "recipe": "diffusion_fast", "fullgraph": True},
    "torch_compile_vae": {"parts": "decoder", "mode": "max-autotune"},
}
CONTENDERS: dict[str, Contender] = {
    "eager": Contender("the unchanged pipeline", {}),
    BASELINE: Contender("torch.compile as people write it (whole U-Net, default mode)", {"torch_compile": _WHOLE}),
    BEST_BASELINE: Contender(
        "the best that torch.compile alone reaches (reduce-overhead, channels last)",
        {"channels_last": {}, "torch_compile": {"region": "whole", "mode": "reduce-overhead"}},
    ),
    "diffusion-fast": Contender("the diffusion-fast recipe, without its quantization", _DIFFUSION_FAST),
    "diffusion-fast, int8": Contender(
        "the diffusion-fast recipe", {**_DIFFUSION_FAST, "torchao_quantization": {"scheme": "int8_dynamic"}}
    ),
    "open package": Contender(
        "DeepCache's own helper (2, branch 0), fused QKV, torch.compile of the layers",
        {"fused_qkv": {}},
        also=deepcache_helper,
        package="DeepCache",
        instead=Contender(
            "DeepCache (2, branch 0; paretune's, the package is not installed), fused QKV, torch.compile",
            {
                "fused_qkv": {},
                "deepcache": {"interval": 2, "branch": 0, "full_percent": 0},
                "torch_compile": _WHOLE,
            },
        ),
    ),
    "stable-fast": Contender(
        "stable-fast with its CUDA graphs",
        {"stable_fast": {"cuda_graph": True, "triton": False, "low_precision_gemm": False}},
        package="sfast",
    ),
    "stable-fast, Triton": Contender(
        "stable-fast with its CUDA graphs and Triton kernels",
        {"stable_fast": {"cuda_graph": True, "triton": True, "low_precision_gemm": False}},
        package="sfast",
    ),
    "graphs": Contender(
        "`vae_dtype(float32) + cuda_graphs`",
        {"vae_dtype": {"dtype": "float32"}, "cuda_graphs": {"modules": "denoiser_vae_text"}},
    ),
    "lossless": Contender("lossless: compiled, arranged, recorded", _ours(None, "float32")),
    "near-lossless": Contender("DeepCache (2, branch 0), compiled, recorded", _ours(2, "bfloat16")),
    "fastest": Contender("DeepCache (5, branch 0), compiled, recorded", _ours(5, "bfloat16")),
}


def serve(name: str, folder: Path, out: Any) -> None:
    """A contender's process: answers each line of standard input with one line of JSON."""
    import torch
    from paretune.objectives.measuring import load_file
    from paretune.objectives.measuring.gpu_busy import gpu_busy
    from paretune.objectives.measuring.latency import time_call_ms
    from paretune.search_space import Configuration, technique

    def say(**what: Any) -> None:
        print(json.dumps(what), file=out, flush=True)

    workload = load_file(folder / "workload.py", "workload").Workload.read(folder)
    pipelines = workload.load("cuda")
    request = workload.requests[0]
    contender = CONTENDERS[name].here()
    assert contender is not None
    configuration = Configuration.of(contender.techniques)
    started = time.perf_counter()
    load_file(folder / "apply.py", "apply").apply(pipelines)
    if contender.also is not None:
        contender.also(pipelines["main"])
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
            say(**gpu_busy(run))


def prepare(folder: Path, name: str, steps: int) -> None:
    """The trial folder of a contender."""
    from paretune.agent.trial.folder import write_trial_folder
    from paretune.search_space import Configuration, apply_source
    from paretune.studies import read_study

    overrides = ["workload.pipelines.main.weights=random"]
    workload = dict(read_study("sdxl", settings=overrides).workload_description())
    workload["requests"] = [{**workload["requests"][0], "steps": steps}]
    contender = CONTENDERS[name].here()
    assert contender is not None
    configuration = Configuration.of(contender.techniques)
    write_trial_folder(folder, configuration.to_dict(), workload, apply_source(configuration))


def main() -> None:
    """Start the contenders, let them take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=CONTENDERS, help="a contender; by default all")
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--build-s", type=float, default=300.0, help="who is not ready by then is left out")
    parser.add_argument("--budget-s", type=float, default=520.0, help="no block begins that would end later")
    parser.add_argument("--out", type=Path, default=Path("peers.json"))
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        # What libraries print must not come between the answers.
        out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        serve(options.serve[0], Path(options.serve[1]), out)
        return
    names = [name for name in options.only or CONTENDERS if CONTENDERS[name].here() is not None]
    for name in set(options.only or CONTENDERS) - set(names):
        print(f"{name} is left out: {CONTENDERS[name].package} is not installed", file=sys.stderr)
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
    try:
        for name, process in processes.items():
            answer = answer_of(process, began + options.build_s)
            took_s = time.perf_counter() - began
            print(f"{took_s:6.1f} s  {name}: {answer or 'not ready'}", file=sys.stderr, flush=True)
            if answer is None:
                process.kill()
            else:
                results[name] = {**answer, "milliseconds": []}
        reference = root / str(names.index("eager") if "eager" in results else 0)
        for name, told in in_turns(processes, list(results), "profile"):
            results[name] |= told
            results[name]["difference"] = difference(root / str(names.index(name)), reference)
        until, block_s = began + options.budget_s, 0.0
        for block in range(options.blocks):
            started = time.perf_counter()
            if started + block_s > until:
                print(f"time is up after {block} blocks", file=sys.stderr, flush=True)
                break
            # What an unfinished block has measured is not part of the results.
            told_of = dict(in_turns(processes, [name for name in results if "busy_ms" in results[name]], "time"))
            results = {name: add_block(results[name], told) for name, told in told_of.items()}
            options.out.write_text(json.dumps({"schema": 1, "versions": versions(), "results": results}, indent=1))
            block_s = time.perf_counter() - started
            print(f"{time.perf_counter() - began:6.1f} s  block {block + 1}", file=sys.stderr, flush=True)
        print(table({name: result for name, result in results.items() if result["milliseconds"]}))
    finally:
        for process in processes.values():
            process.kill()


def in_turns(processes: Mapping[str, Any], names: list[str], question: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Asks one after the other. Who has ended is left out, and the others go on."""
    for name in names:
        answer = ask(processes[name], question)
        if answer is None:
            print(f"{name} is left out: its process has ended", file=sys.stderr, flush=True)
        else:
            yield name, answer


def add_block(result: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """What is known of a contender after one more block."""
    milliseconds = [*result["milliseconds"], told["milliseconds"]]
    busy_share = result["busy_ms"] / statistics.median(milliseconds)
    return {**result, "milliseconds": milliseconds, "peak_gib": told["peak_gib"], "busy_share": busy_share}


def answer_of(process: Any, until: float) -> dict[str, Any] | None:
    """The next line of a process, or None when it ended or time is up."""
    import select

    ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.perf_counter()))
    line = process.stdout.readline() if ready else ""
    return json.loads(line) if line else None


def ask(process: Any, question: str) -> dict[str, Any] | None:
    """Send a line, wait for the answer; None when the process has ended."""
    try:
        process.stdin.write(question + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    line = process.stdout.readline()
    return dict(json.loads(line)) if line else None


def difference(folder: Path, reference: Path) -> float:
    """How far a contender's first pictures lie from the unchanged pipeline's, relative (L2); NaN without those."""
    import torch

    if not (reference / "pictures.pt").exists():
        return math.nan
    ours, theirs = (torch.load(one / "pictures.pt", weights_only=True) for one in (folder, reference))
    return float((ours - theirs).norm() / theirs.norm())


def versions() -> dict[str, str]:
    """The GPU and the packages that decide."""
    import diffusers
    import torch

    return {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "diffusers": diffusers.__version__}


def table(results: dict[str, dict[str, Any]]) -> str:
    """As Markdown: what it takes, and where the GPU's time goes."""
    lines = [
        "| configuration | ms (median, all blocks) | ÷ torch.compile default | ÷ best torch.compile alone | GPU busy | "
        "first call, s | allocator peak, GiB | moved |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, result in results.items():
        ms = result["milliseconds"]
        lines.append(
            f"| {title(name)} | {statistics.median(ms):.0f} ({min(ms):.0f} to {max(ms):.0f}) | "
            f"{against(results, name, BASELINE)} | {against(results, name, BEST_BASELINE)} | "
            f"{result['busy_share']:.0%} | {result['first_call_s']:.0f} | {result['peak_gib']:.1f} | "
            f"{result['difference']:.1e} |"
        )
    kinds = sorted({kind for result in results.values() for kind in result["by_kind_ms"]})
    lines += ["", "Where the GPU's time goes, ms of kernels in one call:", ""]
    lines += [f"| configuration | {' | '.join(kinds)} | kernels |", "| --- |" + " --- |" * (len(kinds) + 1)]
    for name, result in results.items():
        spent = " | ".join(f"{result['by_kind_ms'].get(kind, 0):.0f}" for kind in kinds)
        lines.append(f"| {title(name)} | {spent} | {result['kernels']:,} |")
    return "\n".join(lines)


def title(name: str) -> str:
    """What a contender is, as it runs here."""
    here = CONTENDERS[name].here()
    return name if here is None else here.title


def against(results: dict[str, dict[str, Any]], name: str, baseline: str) -> str:
    """The median of the blocks' ratios, and the lowest and the highest; empty where the baseline did not run."""
    if baseline not in results:
        return ""
    pairs = zip(results[name]["milliseconds"], results[baseline]["milliseconds"], strict=True)
    ratios = [ours / theirs for ours, theirs in pairs]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
