"""What this machine is and what is missing on it."""

import platform
import shutil
from dataclasses import dataclass
from typing import Any

import psutil
from rich.markup import escape

from ..objectives.versions import Dependency, dependencies, judge_python
from ..search_space import Technique, known_techniques, why_never
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
    """A technique and why it cannot run here, if it cannot."""

    technique: Technique
    reason: str | None

    def __str__(self) -> str:
        # No table: parameters have many values, and a column that is cut short would hide them.
        known = self.technique
        runs = "[green]runs here[/green]" if self.reason is None else f"[red]not here:[/red] {escape(self.reason)}"
        choices = [f"{name}: {', '.join(map(str, values))}" for name, values in known.parameters.choices().items()]
        under = [f"    {escape(line)}" for line in (known.summary, *choices)]
        return "\n".join([f"[bold]{known.name}[/bold] ({known.axis}, {' to '.join(known.losses())}), {runs}", *under])

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-able."""
        described = {name: getattr(self.technique, name) for name in ("name", "axis", "loss", "summary", "source")}
        choices = self.technique.parameters.choices()
        return {**described, "parameters": choices, "runs_here": self.reason is None, "reason": self.reason}


def availability() -> list[Availability]:
    """Every technique, judged by the machine alone: what depends on the pipelines is found out by a study."""
    from ..objectives.fingerprint import Fingerprint

    target = target_of(Fingerprint.current(detect_device()))
    return [Availability(known, why_never(known, target)) for known in known_techniques()]
