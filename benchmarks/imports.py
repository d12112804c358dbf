"""What importing takes in a fresh process, in seconds of CPU time: torch, diffusers, and a pipeline's class.

    python benchmarks/imports.py --repeats 5

CPU time, because the wall clock also measures the disk and whatever else the machine does. Four cases, which take
turns: as it is here; while Python's garbage collector rests; without the extras that transformers and diffusers import
because they are installed (torchao), as in an environment made from a bundle's environment.txt; and with no byte code
of any package, as after `pip install --no-compile`, in most images made by uv, or where the packages' folder cannot be
written. Prints a Markdown table of medians.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from typing import Any

MEASURED = """
import gc, json, sys, time
if sys.argv[3] == "resting":
    gc.disable()
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
times = [time.process_time()]
def until_here():
    times.append(time.process_time())
import torch
until_here()
import torch._dynamo  # diffusers imports it (diffusers.utils.torch_utils)
until_here()
import transformers, diffusers
until_here()
getattr(diffusers, sys.argv[2])
until_here()
print(json.dumps(times))
"""
PHASES = ("interpreter", "torch", "torch._dynamo", "transformers, diffusers", "the pipeline's class")


def measured_s(absent: list[str], pipeline: str, *, byte_code: bool, collector: str) -> list[float]:
    """CPU seconds of each phase, and of all of them."""
    with tempfile.TemporaryDirectory() as empty:
        options = [] if byte_code else ["-B", "-X", f"pycache_prefix={empty}"]
        command = [sys.executable, "-P", *options, "-c", MEASURED, json.dumps(absent), pipeline, collector]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    times = json.loads(ran.stdout.splitlines()[-1])
    return [times[0], *(after - before for before, after in itertools.pairwise(times)), times[-1]]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pipeline", default="StableDiffusionXLPipeline", help="a class of diffusers")
    options = parser.parse_args()
    cases: dict[str, dict[str, Any]] = {
        "as it is here": {},
        "while the garbage collector rests": {"collector": "resting"},
        "without torchao": {"absent": ["torchao"]},
        "without byte code": {"byte_code": False},
    }
    usual = {"absent": [], "byte_code": True, "collector": "working"}
    runs: dict[str, list[list[float]]] = {name: [] for name in cases}
    for name in [*cases] * options.repeats:
        runs[name].append(measured_s(pipeline=options.pipeline, **{**usual, **cases[name]}))
    print(f"| CPU s, median of {options.repeats} | {' | '.join(PHASES)} | **all** |\n| --- {'| --- ' * 6}|")
    for name, found in runs.items():
        medians = [statistics.median(column) for column in zip(*found, strict=True)]
        cells = [f"{value:.2f}" for value in medians[:-1]] + [f"**{medians[-1]:.2f}**"]
        print(f"| {name} | {' | '.join(cells)} |")
    from importlib import metadata

    versions = [f"{name} {metadata.version(name)}" for name in ("torch", "diffusers", "transformers")]
    print(f"\n{', '.join(versions)}, Python {platform.python_version()}, {platform.processor() or platform.machine()}")


if __name__ == "__main__":
    main()
