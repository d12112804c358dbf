"""What this machine is and what is missing on it."""

import itertools
import platform
import shutil
from dataclasses import dataclass
from typing import Any

import psutil
from rich.markup import escape
from sqlalchemy.engine import make_url

from ..objectives.versions import Dependency, dependencies, judge_python
from ..search_space import (
    Configuration,
    Parameters,
    Step,
    Technique,
    how_to_install,
    known_techniques,
    variants,
    why_not_on,
)
from ..studies import Records, sqlite_file
from .results import FailedBefore, failed_before
from .trial import detect_device, installed, target_of

EXTRAS = ("torchao", "signing", "dashboard", "postgresql", "ray")
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
    """One way to use a technique, and why it cannot run here, if it cannot."""

    technique: Technique
    parameters: Parameters
    reason: str | None
    failed_before: tuple[str, ...] = ()
    """Where it failed on this machine before, in some study, alone or together with another technique."""

    @property
    def words(self) -> str:
        """As a configuration's words name it."""
        return str(Configuration((Step(self.technique.name, self.parameters),)))

    @property
    def changed(self) -> str:
        """The parameters that have another value than their default."""
        defaults = self.technique.parameters().model_dump()
        values = self.parameters.model_dump().items()
        return ", ".join(f"{k} {v}" for k, v in values if v != defaults[k]) or "its defaults"

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-able."""
        known = self.technique
        return {
            "name": known.name,
            "variant": self.words,
            "values": self.parameters.model_dump(),
            "axis": known.axis,
            "roles": sorted(known.roles_with(self.parameters)),
            "loss": known.loss_with(self.parameters),
            "needs": [
                {"package": package, "command": how_to_install(package)}
                for package in known.packages_with(self.parameters)
            ],
            "on_request": known.on_request,
            "runs_here": self.reason is None,
            "reason": self.reason,
            "failed_before": list(self.failed_before),
            "summary": known.summary,
            "source": known.source,
            "parameters": known.parameters.choices(),
        }


def remembered_here(storage: str) -> FailedBefore:
    """What the studies of a database remember of this machine; nothing where there is no database."""
    from ..objectives.fingerprint import Fingerprint

    file = sqlite_file(make_url(storage))
    if file is not None and not file.is_file():
        return FailedBefore([])
    records = Records(storage, must_exist=True)
    return failed_before(records, Fingerprint.current(detect_device()), None)


def availability(storage: str) -> list[Availability]:
    """Every variant of every technique, judged by the machine alone: what depends on the pipelines is found out by a
    study. storage: of the studies that may have found out.
    """
    from ..objectives.fingerprint import Fingerprint

    target, failed = target_of(Fingerprint.current(detect_device())), remembered_here(storage)
    return [
        Availability(
            known,
            parameters,
            why_not_on(known, target, parameters),
            tuple(one.words() for one in failed.with_step(Step(known.name, parameters))),
        )
        for known in known_techniques()
        for parameters in variants(known)
    ]


def availability_text(found: list[Availability]) -> str:
    """For people: a paragraph for each technique, and why some of its variants cannot run here."""
    paragraphs = []
    for known, group in itertools.groupby(found, key=lambda one: one.technique):
        variants_here = list(group)
        reasons = {one.changed: one.reason for one in variants_here if one.reason is not None}
        runs = "[green]runs here[/green]"
        if len(reasons) == len(variants_here):
            runs = f"[red]not here:[/red] {escape(str(variants_here[0].reason))}"
        about = f"{known.axis}, {' to '.join(known.losses())}" + (", only on request" if known.on_request else "")
        lines = [known.summary]
        # No table: parameters have many values, and a column that is cut short would hide them.
        lines += [f"{name}: {', '.join(map(str, values))}" for name, values in known.parameters.choices().items()]
        if len(reasons) < len(variants_here):
            lines += [f"not here with {changed}: {reason}" for changed, reason in reasons.items()]
        lines += dict.fromkeys(words for one in variants_here for words in one.failed_before)
        under = [f"    {escape(line)}" for line in lines]
        paragraphs.append("\n".join([f"[bold]{known.name}[/bold] ({about}), {runs}", *under]))
    return "\n".join(paragraphs)
