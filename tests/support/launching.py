"""Study files for the tiny pipeline, and the command line in a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

SIDE_PX = 64
BAD_TECHNIQUES = str(Path(__file__).with_name("bad_techniques.py"))


def tiny_study(model: Path, name: str = "tiny", **keys: Any) -> dict[str, Any]:
    """The content of a study file: two requests on the tiny pipeline, on the CPU; `keys` replace whole sections."""
    request = {"width_px": SIDE_PX, "height_px": SIDE_PX, "steps": 5, "guidance": 4.0}
    study: dict[str, Any] = {
        "schema": 1,
        "name": name,
        "device": "cpu",
        "workload": {
            "pipelines": {
                "main": {"class": "StableDiffusionXLPipeline", "model": str(model), "dtype": "float32"},
            },
            "requests": [
                {"name": "cat", "prompt": "a cat", "seed": 1, **request},
                {"name": "dog", "prompt": "a dog", "seed": 2, "batch": 2, **request},
            ],
        },
        "space": {"techniques": {"fused_qkv": {}, "channels_last": {}, "deepcache": {}, "vae_slicing": {}}},
        "torch_compile_baseline": False,  # half a minute
        # As few processes and pictures as there can be: each costs a second. Every trial is timed to its end, however
        # slow the machine makes it beside the others.
        "measurement": {
            **{"calls": 5, "most_calls": 8, "warm_up_calls": 1, "floor_processes": 2, "canary_every": 0},
            "end_early": False,
        },
        "finalists": {"count": 0},
        "quality": {"pictures": {"screen": 3, "front": 3, "finalists": 3}, "reordering_floor": False},
        "budget": {"trials": 3},
        "sampler": {},
    }
    study |= keys
    # What is measured is what a test names, and what Optuna draws.
    return {**study, "space": {"recipes": False, **study["space"]}, "sampler": {"guided": False, **study["sampler"]}}


def write_study(file: Path, content: dict[str, Any]) -> Path:
    """Write a study file; returns it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def command(*arguments: str) -> list[str]:
    """The command line as a process."""
    return [sys.executable, "-P", "-m", "paretune.agent.cli", *arguments]


def run_cli(*arguments: str, cwd: Path, timeout_s: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own and wait for it."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def processes(mark: str) -> list[psutil.Process]:
    """Every process, zombies aside, that was started (at any remove) with `mark` in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PARETUNE_TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.pid != os.getpid()]


def wait_until(what: Callable[[], object], timeout_s: float, message: str) -> None:
    """Poll until `what()` is true; fails with `message` when it does not become so."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, message
        time.sleep(0.1)
