"""A workload in Python that serves a request in a millisecond: a test gives it the body of run()."""

from pathlib import Path
from typing import Any

from paretune.agent.trial import write_trial_folder

SIDE_PX = 32
PRODUCT = """
import random
import torch
from pathlib import Path
from types import SimpleNamespace

CALLS, KEPT, FILE, SEED = [], {{}}, Path({folder!r}) / "kept.pt", random.randrange(10**9)

class Denoiser(torch.nn.Module):
    def forward(self, noise):
        return noise.sigmoid()

class Scheduler:
    def step(self, noise):
        return noise

def load(device):
    pipeline = SimpleNamespace(unet=Denoiser(), scheduler=Scheduler(), safety_checker=torch.nn.Identity())
    return {{"main": pipeline, "upscaler": torch.nn.Identity()}}

def make(pipelines, request, seed=0):
    CALLS.append(request.name)
    noise = torch.randn(request.batch, 3, 32, 32, generator=torch.Generator().manual_seed(request.seed + seed))
    return pipelines["main"].unet(noise)

def run(pipelines, request):
    {run}
"""
"""Without doing anything wrong, run() is `return make(pipelines, request)`."""


def write_product(folder: Path, run: str) -> Path:
    """The workload's Python file."""
    file = folder / "product.py"
    file.write_text(PRODUCT.format(folder=str(folder), run=run))
    return file


def request_of(name: str = "cat", **keys: Any) -> dict[str, Any]:
    """A request, as a study file has it."""
    return {"name": name, "prompt": f"a {name}", "width_px": SIDE_PX, "height_px": SIDE_PX, "steps": 1, **keys}


def product_trial(folder: Path, run: str, apply: str = "pass", requests: list[dict[str, Any]] | None = None) -> Path:
    """A trial's folder, whose apply(pipelines) is given likewise."""
    asked = [{"pipeline": "main", **request} for request in requests or [request_of()]]
    workload = {"schema": 1, "python": str(write_product(folder, run)), "requests": asked}
    trial = folder / "trial"
    write_trial_folder(trial, {}, workload, f"def apply(pipelines):\n    {apply}\n")
    return trial
