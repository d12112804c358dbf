"""Judge the techniques on the model that comes with paretune: python benchmarks/quality_techniques.py > techniques.md

Every configuration gets a freshly loaded pipeline and the very apply.py that a bundle would hold. Prints a Markdown
table and writes docs/quality-techniques-*.webp, a sheet per family: some of the requests, a configuration per row. No
time is measured.
"""

import argparse
import datetime
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from paretune.objectives.fingerprint import Fingerprint
from paretune.objectives.pictures import PictureJudgement, QualitySummary, judge_pictures, summarize_pictures
from paretune.objectives.verdict import Verdict
from paretune.search_space import Configuration, apply_source, technique
from paretune.studies import Workload, read_study
from quality_ladder import ROOT, SHOWN, Cell, draw_sheet, flags_of, held_back_by
from torch import Tensor

DRAWN = ("sunglasses", "top-hat", "crown", "spiky")
Techniques = dict[str, dict[str, Any]]


def _deepcache(interval: int, branch: int, full_percent: int) -> Techniques:
    return {"deepcache": {"interval": interval, "branch": branch, "full_percent": full_percent}}


FAMILIES: dict[str, list[Techniques]] = {
    "precision": [
        {"dtype": {"dtype": "bfloat16"}},
        {"torchao_quantization": {"scheme": "int8_weight_only"}},
        {"torchao_quantization": {"scheme": "int8_dynamic"}},
    ],
    "guidance": [{"guidance_cutoff": {"guided_percent": percent}} for percent in (90, 80, 70, 60, 50, 40)],
    "deepcache-30": [_deepcache(interval, branch, 30) for branch in (2, 0) for interval in (2, 3, 4, 5)],
    "deepcache-0": [_deepcache(interval, branch, 0) for branch in (2, 0) for interval in (2, 3, 4, 5)],
}


@dataclass(frozen=True)
class Judged:
    """One configuration, its pictures by request, and what is thought of them."""

    configuration: Configuration
    pictures: dict[str, Tensor]
    judgements: dict[str, PictureJudgement]
    summary: QualitySummary


def make(workload: Workload, configuration: Configuration) -> dict[str, Tensor]:
    """The pictures (1, 3, H, W) of every request, float32. Raises RuntimeError when a technique changed nothing."""
    pipelines = workload.load("cpu")
    namespace: dict[str, Any] = {}
    exec(compile(apply_source(configuration), "apply.py", "exec"), namespace)
    namespace["apply"](pipelines)
    pictures = {request.name: workload.run(pipelines, request).float() for request in workload.requests}
    for step in configuration.steps:
        reason = technique(step.technique).took_effect(pipelines, **step.values())
        if reason is not None:
            raise RuntimeError(f"{step.technique} changed nothing: {reason}")
    return pictures


def judge(reference: dict[str, Tensor], configuration: Configuration, pictures: dict[str, Tensor]) -> Judged:
    """Against the reference's pictures."""
    judgements = {name: judge_pictures(reference[name], pictures[name])[0] for name in pictures}
    return Judged(configuration, pictures, judgements, summarize_pictures(list(judgements.values())))


def table(all_judged: Sequence[Judged]) -> list[str]:
    """A row per configuration: the verdict, and each metric of the picture that is worst in it."""
    shown = [name for name in SHOWN if name in all_judged[0].summary.worst_metrics]
    lines = [
        f"| configuration | verdict | pictures | {' | '.join(f'worst {name}' for name in shown)} | held back by "
        "| detectors |",
        f"| --- | --- | --- | {'--- | ' * len(shown)}--- | --- |",
    ]
    for judged in all_judged:
        summary, judgements = judged.summary, list(judged.judgements.values())
        counts = ", ".join(f"{count} {verdict}" for verdict, count in summary.counts.items() if count)
        values = " | ".join(f"{summary.worst_metrics[name]:.2f}" for name in shown)
        held_back = dict.fromkeys(n for j in judgements if j.verdict is summary.verdict for n in held_back_by(j))
        lines.append(
            f"| {judged.configuration} | {summary.verdict} | {counts} | {values} | {', '.join(held_back)} "
            f"| {flags_of(judgements)} |"
        )
    return lines


def sheet(reference: dict[str, Tensor], all_judged: Sequence[Judged], file: Path) -> None:
    """The reference first, then a configuration per row."""
    rows = [("reference", [Cell(reference[name][0]) for name in DRAWN])]
    for judged in all_judged:
        cells = [Cell(judged.pictures[name][0], judged.judgements[name]) for name in DRAWN]
        rows.append((_label(judged.configuration, judged.summary.verdict), cells))
    draw_sheet(rows, file)


def _label(configuration: Configuration, verdict: Verdict) -> str:
    lines = [line for step in configuration.steps for line in (step.technique, *_words(step.values()))]
    return "\n".join(["\n".join(lines).replace("torchao_quantization", "torchao"), f"= {verdict}"])


def _words(values: dict[str, Any]) -> list[str]:
    return [f"{name} {value}" if isinstance(value, int) else str(value) for name, value in values.items()]


def main() -> None:
    """Print the table and write the sheets."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--figures", type=Path, default=ROOT / "docs", help="folder")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the pictures of other thread counts differ in their last bits
    workload = Workload(read_study("quickstart").workload_description())
    machine = Fingerprint.current("cpu")
    versions = ", ".join(f"{name} {version}" for name, version in machine.packages.items() if version)
    print(f"{machine.device_name}, one thread, Python {machine.python}, {versions}; {datetime.date.today()}; ", end="")
    print(f"n={len(workload.requests)} pictures per configuration.\n")
    reference = make(workload, Configuration())
    again = judge(reference, Configuration(), make(workload, Configuration()))
    families: dict[str, list[Judged]] = {}
    for family, members in FAMILIES.items():
        for techniques in members:
            configuration = Configuration.of(techniques)
            print(configuration, file=sys.stderr, flush=True)
            families.setdefault(family, []).append(judge(reference, configuration, make(workload, configuration)))
    print("\n".join(table([again, *(judged for members in families.values() for judged in members)])))
    for family, all_judged in families.items():
        sheet(reference, all_judged, options.figures / f"quality-techniques-{family}.webp")


if __name__ == "__main__":
    main()
