"""The report of a study: one HTML file that needs nothing else, for the person who has to decide."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ..objectives import memory
from ..objectives.verdict import THRESHOLDS, Verdict
from ..search_space import Loss, technique
from ..studies import UserError, utc_now
from ._constraints import constraint_values
from ._files import write_text
from ._pictures import InlinedPictures, inline_pictures
from ._report_plots import Row, drift_text, plots, steps_of
from ._results import Results, Trial
from ._summary import confirmation_note, gain, milliseconds, quality, shortfall, speed_up, spread, unsteady_note, winner

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
}

_LOSS_WORDS = {
    Loss.BIT_IDENTICAL: "nothing, the pictures stay the same to the bit",
    Loss.REORDERED: "rounding, because the same arithmetic runs in another order",
    Loss.APPROXIMATE: "accuracy, because it approximates",
}


@dataclass(frozen=True)
class Card:
    """One picture with its caption."""

    title: str
    uri: str
    alt: str
    verdict: str
    chip: str
    metrics: str
    flags: list[str]
    configuration: str


@dataclass(frozen=True)
class RequestCards:
    """The pictures of one request: the reference's first."""

    name: str
    details: str
    prompt: str
    cards: list[Card]


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
    rows = [_row(results, trial) for trial in results.complete]
    front = results.front()
    best = winner(results)
    assessed = results.study.workload.quality_assessed
    pictured = _pictured(results, best, front) if assessed else []
    inlined = inline_pictures(picture for trial in pictured for picture in trial.pictures())
    return environment.get_template("report.html.j2").render(
        results=results,
        machine=results.fingerprint,
        on_cpu=results.fingerprint.device_kind == "cpu",
        version=metadata.version("paretune"),
        written_at=_date(utc_now()),
        launched_at=_date(results.record.created_at),
        gain=gain(results),
        shortfall=shortfall(results),
        assessed=assessed,
        best=best,
        gained=best is not None and best is not results.reference,
        headline=_headline(results, rows),
        slowest_ms=max(row.trial.figure("latency_ms") for row in rows),
        overlap=confirmation_note(results),
        unsteady=unsteady_note(results),
        rows=rows,
        front=front,
        limits=_limits(results),
        plots=plots(results, rows) if len(rows) > 1 else [],
        requests=list(_request_cards(results, pictured, inlined)),
        downscaled_px=inlined.longest_side_px,
        phases=PHASES,
        longest_s=max(sum(trial.phases_s.values()) for trial in results.trials) or 1.0,
        total_s=sum(sum(trial.phases_s.values()) for trial in results.trials),
        steps=steps_of,
        loss_words=_LOSS_WORDS,
        summary_of=lambda name: technique(name).summary,
        memory_words=_memory_words(results),
        thresholds=THRESHOLDS,
        metric_words=_METRIC_WORDS,
        unrepeatable=[t.number for t in results.complete if t.measurements.get("repeat_max_difference", 0) > 0],
        milliseconds=milliseconds,
        seconds=_seconds,
        drift=drift_text,
        plotly_js=Markup(get_plotlyjs()),
    )


def _row(results: Results, trial: Trial) -> Row:
    verdict = quality(results, trial)
    best = winner(results)
    names = {"reference": results.reference, "torch.compile": results.torch_compile}
    if best is not results.reference:
        names["best"] = best
    return Row(
        trial=trial,
        label=", ".join(name for name, named in names.items() if named is trial),
        verdict=verdict,
        chip=str(trial.verdict) if results.study.workload.quality_assessed else str(Verdict.NOT_ASSESSED),
        drift=trial.measurements.get("drift") if results.study.workload.quality_assessed else None,
        speed=speed_up(results.reference, trial),
        ranges=_ranges(trial),
        on_front=trial in results.front(),
        broken_limits=_broken_limits(results, trial),
    )


def _headline(results: Results, rows: Sequence[Row]) -> list[tuple[str, Row | Trial | None]]:
    """Reference, torch.compile and best, each with its row; a failed trial as it is, None for what there is not."""
    by_number = {row.trial.number: row for row in rows}
    named = (("reference", results.reference), ("torch.compile", results.torch_compile), ("best", winner(results)))
    return [(name, trial and by_number.get(trial.number, trial)) for name, trial in named]


def _ranges(trial: Trial) -> list[str]:
    shapes = trial.measurements["latency"]
    if len(shapes) == 1:
        return [spread(trial)]
    return [
        f"{_requests(shape['requests'])}: {milliseconds(shape['median_ms'])} "
        f"(n={shape['n']}, {milliseconds(shape['min_ms'])} to {milliseconds(shape['max_ms'])})"
        for shape in shapes
    ]


def _requests(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


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


def _broken_limits(results: Results, trial: Trial) -> list[str]:
    limits = results.study.limits
    words = {
        "verdict": f"pictures are {trial.verdict}, the limit is {limits.verdict}",
        "latency_ms": f"latency is over {milliseconds(limits.latency_ms or 0)}",
        "peak_vram_gib": f"memory is over {limits.peak_vram_gib or 0:g} GiB",
        "cold_start_s": f"cold start is over {limits.cold_start_s or 0:g} s",
    }
    return [words[name] for name, value in constraint_values(results.study, trial.measurements).items() if value > 0]


def _memory_words(results: Results) -> str:
    sources = {str(trial.measurements.get("memory", {}).get("source", "")) for trial in results.complete}
    return "; ".join(_MEMORY_WORDS.get(source, source) for source in sorted(sources))


def _seconds(value: float) -> str:
    """ "0.03", "4.2", "118"."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _date(iso: str) -> str:
    """ "2026-05-04 13:07 UTC" from what utc_now writes."""
    return iso[:16].replace("T", " ") + " UTC"


# Pictures


def _pictured(results: Results, best: Trial | None, front: Sequence[Trial]) -> list[Trial]:
    """Reference, best, the rest of the front, and the fastest of all even if it breaks a limit: was the limit right?"""
    fastest = min(results.complete, key=lambda trial: trial.figure("latency_ms"))
    return list({t.number: t for t in [results.reference, *([best] if best else []), *front, fastest]}.values())


def _request_cards(results: Results, trials: Sequence[Trial], inlined: InlinedPictures) -> Iterator[RequestCards]:
    best = winner(results)
    for request in results.study.workload_description()["requests"]:
        for index in range(request["batch"]):
            file = f"{request['name']}-{index}.png"
            cards = []
            for trial in trials:
                uri = inlined.uris.get(trial.folder / "pictures" / file)
                if uri is None:
                    continue
                title = "reference" if trial is results.reference else f"trial {trial.number}"
                if trial is best and trial is not results.reference:
                    title = f"best, {title}"
                elif not results.acceptable(trial):
                    title = f"{title}, breaks a limit"
                cards.append(_card(trial, file, title, uri, request))
            if cards:
                number = f" (picture {index + 1} of {request['batch']})" if request["batch"] > 1 else ""
                yield RequestCards(request["name"] + number, _request_details(request, index), request["prompt"], cards)


def _request_details(request: Mapping[str, Any], index: int) -> str:
    size = f"{request['width_px']} × {request['height_px']} px"
    return f"{size}, {request['steps']} steps, guidance {request['guidance']:g}, seed {request['seed'] + index}"


def _card(trial: Trial, file: str, title: str, uri: str, request: Mapping[str, Any]) -> Card:
    judged = next((p for p in trial.measurements["quality"]["pictures"] if p["file"] == file), None)
    is_reference = title.startswith("reference")
    return Card(
        title=title,
        uri=uri,
        alt=f"{title}, request {request['name']}: {request['prompt']}",
        verdict="" if judged is None or is_reference else str(judged["verdict"]),
        chip="" if judged is None else str(judged["verdict"]),
        metrics="what the others are compared with" if judged is None or is_reference else _metrics(judged["metrics"]),
        flags=[] if judged is None else list(judged["flags"]),
        configuration=str(trial.configuration),
    )


def _metrics(metrics: Mapping[str, float | None]) -> str:
    if metrics.get("max_abs_difference_lsb") == 0:
        return "every pixel is equal"
    words = []
    for name, unit, digits in (("psnr_db", "PSNR {} dB", 1), ("worst_tile_psnr_db", "worst tile {} dB", 1)):
        value = metrics.get(name)
        words.append(unit.format("∞" if value is None else f"{value:.{digits}f}"))
    for name, unit, digits in (("ssim", "SSIM {}", 3), ("delta_e_mean", "ΔE00 {}", 2)):
        value = metrics.get(name)
        if value is not None:
            words.append(unit.format(f"{value:.{digits}f}"))
    return ", ".join(words)


# Plots. Colours are names of CSS variables, which the page resolves for its light and its dark scheme.
