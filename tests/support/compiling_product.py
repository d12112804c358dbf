"""A product that compiles in seconds: a denoiser of one layer."""

from pathlib import Path

from paretune.agent.trial import write_scripts
from paretune.studies import sha256
from support.product import request_of

REQUESTS = [request_of("cat"), request_of("dog", batch=2)]
"""Of two shapes."""


def product_of(features: int, forward: str) -> str:
    """Its source. forward: the expression that `forward` returns."""
    return f"""
import torch
from types import SimpleNamespace

class Denoiser(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.mix = torch.nn.Linear({features}, {features})

    def forward(self, sample):
        return {forward}

class Scheduler:
    def step(self, noise):
        return noise

def load(device):
    return {{"main": SimpleNamespace(unet=Denoiser().eval(), scheduler=Scheduler())}}

@torch.no_grad()
def run(pipelines, request):
    noise = torch.randn(request.batch, 3, 32, 32, generator=torch.Generator().manual_seed(request.seed))
    return pipelines["main"].unet(noise)
"""


PRODUCT = product_of(3, "self.mix(sample.movedim(1, -1)).movedim(-1, 1).sigmoid()")


def write_run_files(folder: Path) -> None:
    """What the run.py of a trial's folder needs of the workload, and run.py itself."""
    product = folder / "own" / "product.py"
    product.parent.mkdir(parents=True)
    product.write_text(PRODUCT)
    requests = [{"pipeline": "main", **request} for request in REQUESTS]
    digests = {"product.py": sha256(product)}
    write_scripts(folder, {"schema": 1, "python": "own/product.py", "sha256": digests, "requests": requests})
