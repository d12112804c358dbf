"""The report of a study: one HTML file that needs nothing else, for the person who has to decide."""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import jinja2
from markupsafe import Markup

from ...objectives.measuring import memory
from ...objectives.verdict import THRESHOLDS, Verdict
from ...search_space import Loss, technique
from ...studies import UserError, utc_now
from ...studies._records import MOVED
from ..results.doubts import confirmation_of, confirmation_words, doubts, ended_early_words, floor_note, ties_note
from ..results.figures import (
    broken_limits,
    cold_start_estimate_s,
    cold_start_measured,
    cost_words,
    evidence,
    milliseconds,
    quality,
    speed,
    within_benign_floor,
)
from ..results.results import Results, Trial
from ..results.summary import gain, winner
from ..search.reuse import age_words
from ..trial.files import write_text
from . import sections
from .picture_cards import LEARNED_WORDS, not_assessed, request_cards, shown_files
from .pictures import inline_pictures
from .plots import Row, drift_text, plots, steps_of

REPORT = "index.html"
PHASES = ("start", "load", "apply", "first_call", "warm_up", "memory", "measure", "pictures", "stages", "judge")

_MEMORY_WORDS = {
    memory.SOURCE_PROCESS: "GPU memory of the trial's process, as NVML counts it",
    memory.SOURCE_DEVICE_MINUS_BEFORE: "GPU memory in use (NVML), less what was in use before the trial's process",
    memory.SOURCE_DEVICE_MINUS_ENTRY: "GPU memory in use (NVML), less other processes and the CUDA context",
    memory.SOURCE_ALLOCATOR: "memory reserved by PyTorch's allocator, without the CUDA context",
    memory.SOURCE_RESIDENT_SET: "resident set of the trial's process (main memory), because it ran on the CPU",
}
_METRIC_WORDS = {
    "psnr_db": "PSNR, dB",
    "worst_tile_psnr_db": "PSNR of the worst 64 px tile, dB",
    "ssim": "SSIM",
    "delta_e_mean": "mean colour difference ΔE00",
    "ms_ssim": "MS-SSIM",
    "ncc32": "correlation of 32 px thumbnails",
    "ssimulacra2": "SSIMULACRA2",
    **LEARNED_WORDS,
}
_LOSS_WORDS = {
    Loss.BIT_IDENTICAL: "nothing, the pictures stay the same to the bit",
    Loss.REORDERED: "rounding, because the same arithmetic runs in another order",
    Loss.APPROXIMATE: "accuracy, because it approximates",
}


def write_report(results: Results, folder: Path) -> Path:
    """Write the report into `folder`, in place of an earlier one. Returns the file.

    Raises UserError when the study has no reference yet, or when the folder cannot be written.
    """
    text = report_html(results)
    file = folder / REPORT
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise UserError(f"the report cannot be written to {folder} ({error.strerror}): choose another -o") from None
    return file


def report_html(results: Results) -> str:
    """The whole page. Raises UserError when the study has no reference yet."""
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    best, front = winner(results), results.front()
    ties = results.ties_of(best) if best is not None else []
    rows = [_row(results, trial, best, trial in front, trial in ties) for trial in results.complete]
    assessed = results.study.workload.quality_assessed
    pictured = _pictured(results, best, front) if assessed else []
    inlined = inline_pictures(shown_files(results, pictured))
    confirmed = sections.finalists(results)
    confirmation = None if best is None else confirmation_of(results, best)
    costs = {trial.number: cost_words(results, trial) for trial in results.complete}
    own = [trial for trial in results.trials if trial.reused_from is None]
    return environment.get_template("report.html.j2").render(
        results=results,
        machine=results.fingerprint,
        on_cpu=results.fingerprint.device_kind == "cpu",
        version=metadata.version("paretune"),
        written_at=_date(utc_now()),
        launched_at=_date(results.record.created_at),
        gain=gain(results),
        doubts=doubts(results),
        floor_words=floor_note(results),
        ties_words=None if best is None else ties_note(results, best),
        assessed=assessed,
        best=best,
        gained=best is not None and best is not results.reference,
        confirmation=confirmation,
        confirmation_words="" if confirmation is None else confirmation_words(confirmation),
        headline=_headline(results, rows),
        slowest_ms=max(row.trial.figure("latency_ms") for row in rows),
        costs=costs,
        priced=any(costs.values()),
        rows=rows,
        front=front,
        limits=_limits(results),
        plots=plots(results, rows) if len(rows) > 1 else [],
        confirmed=confirmed,
        cold_words=sections.COLD_WORDS,
        cold_starts=sections.cold_starts(results, confirmed) if confirmed else [],
        cold_start_estimate_s=cold_start_estimate_s,
        cold_start_measured=cold_start_measured,
        failed_processes=sections.failed_processes(results),
        stages=sections.STAGES,
        shapes=sections.shapes(results),
        footprints=sections.footprints(results),
        requests=list(request_cards(results, pictured, inlined)),
        not_assessed=not_assessed(results),
        downscaled_px=inlined.longest_side_px,
        phases=PHASES,
        longest_s=max(sum(trial.phases_s.values()) for trial in results.trials) or 1.0,
        own=own,
        total_s=sum(sum(trial.phases_s.values()) for trial in own),
        others=sections.other_processes(results),
        steps=steps_of,
        loss_words=_LOSS_WORDS,
        summary_of=lambda name: technique(name).summary,
        canaries=sections.canaries(results),
        benign=results.record.benign_floor,
        machine_notes=sections.machine_notes(results),
        memory_words=_memory_words(results),
        thresholds=THRESHOLDS,
        metric_words=_METRIC_WORDS,
        unrepeatable=[t.number for t in results.complete if t.measurements.get("repeat_max_difference", 0) > 0],
        milliseconds=milliseconds,
        seconds=_seconds,
        date=_date,
        drift=drift_text,
        plotly_js=Markup(get_plotlyjs()),
    )


def _row(results: Results, trial: Trial, best: Trial | None, on_front: bool, ties: bool) -> Row:
    assessed = results.study.workload.quality_assessed
    names = {"reference": results.reference, "torch.compile": results.torch_compile}
    if best is not results.reference and best is not None:
        names["best"] = best
    return Row(
        trial=trial,
        label=", ".join(name for name, named in names.items() if named is trial),
        verdict=quality(results, trial),
        chip=str(trial.verdict) if assessed else str(Verdict.NOT_ASSESSED),
        drift=trial.measurements.get("drift") if assessed else None,
        speed=speed(results, trial),
        calls=sections.call_words(trial),
        on_front=on_front,
        broken_limits=broken_limits(results, trial),
        remarks=_remarks(trial, ties),
        evidence=evidence(results, trial),
        within_benign=within_benign_floor(results, trial),
    )


def _remarks(trial: Trial, ties: bool) -> list[str]:
    words = ["ties with the best one"] if ties else []
    if trial.machine == MOVED:
        words.append("in doubt: the reference was not where it had been")
    if (early := ended_early_words(trial)) is not None:
        words.append(early)
    if (origin := trial.reused_from) is not None:
        age = age_words(origin["finished_at"])
        words.append(f"measured in study {origin['study']}, trial {origin['trial']}: {age}")
    return words


def _headline(results: Results, rows: Sequence[Row]) -> list[tuple[str, Row | Trial | None]]:
    """Reference, torch.compile and best, each with its row; a failed trial as it is, None for what there is not."""
    by_number = {row.trial.number: row for row in rows}
    named = (("reference", results.reference), ("torch.compile", results.torch_compile), ("best", winner(results)))
    return [(name, trial and by_number.get(trial.number, trial)) for name, trial in named]


def _limits(results: Results) -> list[str]:
    """The study's limits in words."""
    limits = results.study.limits
    words = [] if limits.verdict is None else [f"pictures {limits.verdict} or better"]
    if limits.verdict is not None and not results.study.workload.quality_assessed:
        words = [f"pictures {limits.verdict} or better, not assessed (random weights)"]
    if limits.latency_ms is not None:
        words.append(f"latency up to {milliseconds(limits.latency_ms)}")
    if limits.peak_vram_gib is not None:
        words.append(f"peak memory up to {limits.peak_vram_gib:g} GiB")
    if limits.cold_start_s is not None:
        words.append(f"cold start up to {limits.cold_start_s:g} s")
    return words


def _memory_words(results: Results) -> str:
    sources = {str(trial.measurements.get("memory", {}).get("source", "")) for trial in results.complete}
    return "; ".join(_MEMORY_WORDS.get(source, source) for source in sorted(sources))


def _seconds(value: float) -> str:
    """ "0.03", "4.2", "118"."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _date(iso: str) -> str:
    """ "2026-05-04 13:07 UTC" from what utc_now writes."""
    return iso[:16].replace("T", " ") + " UTC"


def _pictured(results: Results, best: Trial | None, front: Sequence[Trial]) -> list[Trial]:
    """Reference, best, the rest of the front, and the fastest of all even if it breaks a limit: was the limit right?"""
    fastest = min(results.complete, key=lambda trial: trial.figure("latency_ms"))
    return list({t.number: t for t in [results.reference, *([best] if best else []), *front, fastest]}.values())
