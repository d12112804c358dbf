"""What this machine is and what is missing on it."""

import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil
from rich.markup import escape

from ..objectives.versions import Dependency, dependencies, judge_python
from ..search_space import known_techniques
from .trial import detect_device, installed, target_of

EXTRAS = ("torchao", "dashboard", "postgresql")
"""What a user may want besides; the other extras are for working on paretune itself."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report; `ok` is None for what is only worth knowing."""

    name: str
    ok: bool | None
    text: str

    def __str__(self) -> str:
        mark = {True: "[green]ok[/green]", False: "[red]not ok[/red]", None: ""}[self.ok]
        return f"{self.name:18} {escape(self.text)} {mark}"


def examine() -> list[Finding]:
    """Look at the machine. Imports torch, so it takes a few seconds."""
    findings = [Finding("python", True, judge_python(platform.python_version()))]
    findings += [_package(dependency) for extra in (None, *EXTRAS) for dependency in dependencies(extra)]
    memory = psutil.virtual_memory()
    findings.append(
        Finding("main memory", None, f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} free")
    )
    findings.append(Finding("disk here", None, f"{shutil.disk_usage('.').free / 2**30:.1f} GiB free"))
    return findings + _device()


def _package(dependency: Dependency) -> Finding:
    version = installed(dependency.name)
    if version is not None:
        return Finding(dependency.name, *dependency.judge(version))
    if dependency.extra is None:
        return Finding(dependency.name, False, "not installed, and paretune needs it")
    return Finding(dependency.name, None, f"not installed; pip install 'paretune[{dependency.extra}]'")


def _device() -> list[Finding]:
    from ..objectives.fingerprint import Fingerprint

    device = detect_device()
    fingerprint = Fingerprint.current(device)
    findings = [Finding("device", None, f"{fingerprint.device_name} ({device})")]
    if device == "cuda":
        import torch

        driver = f"{fingerprint.driver}, compute capability {fingerprint.compute_capability}"
        findings.append(Finding("driver", None, driver))
        works, built = torch.cuda.is_available(), f"torch is built for CUDA {torch.version.cuda}"
        text = built if works else "this torch cannot use the GPU: install a CUDA build"
        findings.append(Finding("torch on the GPU", works, text))
    compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    text = compiler or "missing: torch.compile needs gcc or clang"
    return [*findings, Finding("C compiler", compiler is not None, text)]


@dataclass(frozen=True)
class Availability:
    """A technique, and whether it can run here."""

    name: str
    axis: str
    loss: str
    summary: str
    source: str
    parameters: Mapping[str, tuple[Any, ...]]
    """The choices of each."""
    runs_here: bool
    reason: str | None
    """Why it cannot; None when it can."""

    def __str__(self) -> str:
        # No table: parameters have many values, and a column that is cut short would hide them.
        runs = "[green]runs here[/green]" if self.runs_here else f"[red]not here:[/red] {escape(str(self.reason))}"
        choices = [f"{name}: {', '.join(map(str, values))}" for name, values in self.parameters.items()]
        under = [f"    {escape(line)}" for line in (self.summary, *choices)]
        return "\n".join([f"[bold]{self.name}[/bold] ({self.axis}, {self.loss}), {runs}", *under])


def availability() -> list[Availability]:
    """Every technique, judged by the machine alone: what depends on the pipelines is found out by a study."""
    from ..objectives.fingerprint import Fingerprint
    from ..search_space import ModuleFacts, PipelineFacts, Role

    target = target_of(Fingerprint.current(detect_device()))
    # A pipeline that every technique finds something to change in.
    modules = {
        "unet": ModuleFacts(
            class_name="UNet2DConditionModel",
            role=Role.DENOISER,
            dtype="float16",
            parameters_m=2567.0,
            fuses_qkv=True,
            has_repeated_blocks=True,
        ),
        "vae": ModuleFacts(
            class_name="AutoencoderKL", role=Role.VAE, dtype="float16", parameters_m=84.0, tile_side_px=512
        ),
    }
    pipelines = {
        "main": PipelineFacts(
            class_name="StableDiffusionXLPipeline", modules=modules, largest_batch=4, largest_side_px=1024
        )
    }
    found = []
    for known in known_techniques():
        reasons = [known.why_not(target, pipelines, parameters) for parameters in known.parameters.combinations()]
        runs_here = None in reasons
        found.append(
            Availability(
                known.name,
                known.axis,
                known.loss,
                known.summary,
                known.source,
                known.parameters.choices(),
                runs_here,
                reason=None if runs_here else reasons[0],
            )
        )
    return found
