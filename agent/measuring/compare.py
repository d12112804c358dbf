"""Compare two configurations or bundles: fresh processes that take turns, and a decision with its interval."""

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...objectives.fingerprint import Fingerprint
from ...objectives.measuring import Plan
from ...objectives.measuring.intervals import Comparison, compare_paired
from ...search_space import Configuration
from ...studies import Outcome, Records, RunKind, Study, UserError, pack_workload, unpacked
from ..bundle import MANIFEST, open_bundle
from ..results import Results
from ..trial import COMPILED, Job, detect_device, portable_workload
from .runner import LocalRunner, Runner

WARM_UP_CALLS = 2
T = TypeVar("T")


@dataclass(frozen=True)
class Contender:
    """One of the two: its apply.py and the workload it is for."""

    label: str
    apply_py: str
    workload: Mapping[str, Any]
    """With the places on this machine."""
    same: Mapping[str, Any]
    """The workload as a bundle describes it: two that are equal in this can be compared."""
    deadlines_s: Mapping[str, float] | None


@dataclass(frozen=True)
class Compared:
    """The second against the first."""

    first: str
    second: str
    comparison: Comparison
    latencies_ms: tuple[tuple[float, float], ...]
    """First and second, per block."""
    fingerprint: Fingerprint

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-able."""
        return {
            "schema": 1,
            "first": self.first,
            "second": self.second,
            **self.comparison.to_dict(),
            "latencies_ms": [list(block) for block in self.latencies_ms],
            "fingerprint": self.fingerprint.to_dict(),
        }


def contender(text: str, storage: str) -> Contender:
    """A bundle's folder, or STUDY:TRIAL with a number, "reference", "torch.compile" or "best". Raises UserError."""
    folder = Path(text)
    if _is_bundle(folder):
        with tempfile.TemporaryDirectory(prefix="paretune-compare-") as scratch:
            copy = open_bundle(folder, Path(scratch) / "bundle").folder
            described = json.loads((copy / "check" / "workload.json").read_text())
            apply_py = (copy / "apply.py").read_text()
        try:
            workload = unpacked(described, (folder / "check").resolve())
        except FileNotFoundError as error:
            raise UserError(f"{text}: {error}") from None
        return Contender(text, apply_py, workload, described, None)
    study, separator, which = text.rpartition(":")
    if not separator:
        raise UserError(f"{text} is neither a bundle's folder nor STUDY:TRIAL, such as quickstart:4 or quickstart:best")
    results = Results(Records(storage, must_exist=True), study)
    if which == "reference":
        trial = results.reference
    elif which == "best":
        trial = results.best()
    elif which == "torch.compile" and results.torch_compile is not None:
        trial = results.trial(results.torch_compile.number)
    elif which.isdecimal():
        trial = results.trial(int(which))
    else:
        raise UserError(f"{text}: a trial is a number, reference, torch.compile or best")
    deadlines_s = results.study.deadlines_s.model_dump()
    described, _ = portable_workload(pack_workload(results.study).description)
    return Contender(text, trial.timing.apply_py, results.study.workload_description(), described, deadlines_s)


def _is_bundle(folder: Path) -> bool:
    try:
        return (folder / MANIFEST).is_file()
    except OSError:
        return False  # a name that is too long


def compare(
    first: Contender,
    second: Contender,
    *,
    blocks: int = 8,
    calls: int = 5,
    device: str = "auto",
    on_step: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Compared:
    """Measure both once a block, each in a fresh process; the order is reversed from block to block.

    Raises UserError when the workloads differ, or when one of them fails.
    """
    if json.loads(json.dumps(first.same)) != json.loads(json.dumps(second.same)):
        raise UserError(f"{first.label} and {second.label} are for different workloads: nothing can be compared")
    if blocks < 2:
        raise UserError("a comparison needs at least 2 blocks")
    deadlines_s = first.deadlines_s or second.deadlines_s or Study.model_fields["deadlines_s"].default.model_dump()
    plan = Plan(calls=calls, most_calls=calls, warm_up_calls=WARM_UP_CALLS, memory=False, stages=False, pictures=())
    latencies: tuple[list[float], list[float]] = ([], [])
    with (
        tempfile.TemporaryDirectory(prefix="paretune-compare-") as scratch,
        closing(LocalRunner(detect_device(device), first.workload, deadlines_s)) as runner,
    ):
        for done, (block, which) in enumerate(in_turns(blocks, (0, 1))):
            one = (first, second)[which]
            on_step(done, 2 * blocks, f"block {block + 1} of {blocks}: {one.label}")
            latencies[which].append(_latency_ms(one, runner, plan, Path(scratch) / f"{which}"))
    return Compared(
        first=first.label,
        second=second.label,
        comparison=compare_paired(*latencies),
        latencies_ms=tuple(zip(*latencies, strict=True)),
        fingerprint=runner.fingerprint,
    )


def in_turns(blocks: int, contenders: Sequence[T]) -> list[tuple[int, T]]:
    """(block, contender): each of them once per block. The order is reversed from block to block (ABBA), so that a slow
    change of the machine favours none of them.
    """
    return [(block, one) for block in range(blocks) for one in (contenders if block % 2 == 0 else contenders[::-1])]


def _latency_ms(one: Contender, runner: Runner, plan: Plan, folder: Path) -> float:
    job = Job(
        folder=str(folder),
        device=runner.device,
        configuration=Configuration().to_dict(),  # apply.py says it all; nothing is checked against it
        apply_py=one.apply_py,
        workload=one.workload,
        plan=dataclasses.asdict(plan),
        reference_pictures=None,
        quality_assessed=False,
        technique_files=[],
        import_s=0.0,
        judge=False,
        # Compiled in the first block and used in the others: a block times calls, not the compiler.
        compiled=str(folder.with_name(f"{COMPILED}-{folder.name}")),
    )
    result = runner.submit(RunKind.BLOCK, job).result()
    if result.outcome is not Outcome.COMPLETE:
        raise UserError(f"{one.label} could not be measured ({result.outcome}): {result.reason}")
    return float(result.measurements["latency_ms"])
