"""The report of a study: one HTML file that needs nothing else, for the person who has to decide."""

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from ._results import Results, Trial
from ._summary import gain, milliseconds, overlap_note, quality, shortfall, speed_up, spread, unsteady_note, winner

REPORT = "index.html"
PHASES = ("start", "load", "apply", "first_call", "warm_up", "measure", "memory", "judge")

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
class Row:
    """One measured configuration as the tables show it."""

    trial: Trial
    label: str
    """What it is known as: "reference", "torch.compile", "best", several of them, or nothing."""
    verdict: str
    chip: str
    """The verdict as a CSS class."""
    drift: float | None
    speed: float
    """Times as fast as the reference."""
    ranges: list[str]
    """How far the timed calls lie apart, a line per shape of request."""
    on_front: bool
    broken_limits: list[str]


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
        overlap=overlap_note(results),
        unsteady=unsteady_note(results),
        rows=rows,
        front=front,
        limits=_limits(results),
        plots=_plots(results, rows) if len(rows) > 1 else [],
        requests=list(_request_cards(results, pictured, inlined)),
        downscaled_px=inlined.longest_side_px,
        phases=PHASES,
        longest_s=max(sum(trial.phases_s.values()) for trial in results.trials) or 1.0,
        total_s=sum(sum(trial.phases_s.values()) for trial in results.trials),
        steps=_steps,
        loss_words=_LOSS_WORDS,
        summary_of=lambda name: technique(name).summary,
        memory_words=_memory_words(results),
        thresholds=THRESHOLDS,
        metric_words=_METRIC_WORDS,
        unrepeatable=[t.number for t in results.complete if t.measurements.get("repeat_max_difference", 0) > 0],
        milliseconds=milliseconds,
        seconds=_seconds,
        drift=_drift,
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


def _steps(trial: Trial) -> list[tuple[str, str, Loss]]:
    """(technique, every parameter, what it may lose) in the order of application."""
    return [
        (
            step.technique,
            ", ".join(f"{name}={value}" for name, value in step.values().items()),
            technique(step.technique).loss,
        )
        for step in trial.configuration.steps
    ]


def _memory_words(results: Results) -> str:
    sources = {str(trial.measurements.get("memory", {}).get("source", "")) for trial in results.complete}
    return "; ".join(_MEMORY_WORDS.get(source, source) for source in sorted(sources))


def _seconds(value: float) -> str:
    """ "0.03", "4.2", "118"."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _drift(value: float) -> str:
    """Two decimals; what is not 0 never looks like it, because 0 is bit-exact."""
    return "< 0.01" if 0 < value < 0.005 else f"{value:.2f}"


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


def _plots(results: Results, rows: Sequence[Row]) -> list[dict[str, Any]]:
    plots = []
    limits = results.study.limits
    if any(row.drift is not None for row in rows):
        plot = _plot(rows, "drift", lambda row: float(row.drift or 0), "drift of the worst picture")
        _add_bands(plot, max(row.drift or 0 for row in rows))
        if limits.verdict is not None:
            _add_limit(plot, "y", Verdict(limits.verdict).drift_limit)
        plots.append({"id": "plot-drift", "title": "Latency and pictures", **plot})
    plot = _plot(rows, "peak memory", lambda row: row.trial.figure("peak_vram_gib"), "peak memory, GiB")
    if limits.peak_vram_gib is not None:
        _add_limit(plot, "y", limits.peak_vram_gib)
    plots.append({"id": "plot-memory", "title": "Latency and memory", **plot})
    for plot in plots:
        if limits.latency_ms is not None:
            _add_limit(plot, "x", limits.latency_ms / _latency_unit(rows)[1])
    return plots


def _latency_unit(rows: Sequence[Row]) -> tuple[str, float]:
    """The axis's unit, and how many ms it has."""
    slowest = max(row.trial.figure("latency_ms") for row in rows)
    return ("s", 1000.0) if slowest >= 2000 else ("ms", 1.0)


def _plot(rows: Sequence[Row], what: str, y: Callable[[Row], float], y_title: str) -> dict[str, Any]:
    named = [row for row in rows if row.label]
    others = [row for row in rows if not row.label]
    groups = (
        ("breaks a limit", [r for r in others if r.broken_limits], {"symbol": "x-thin-open", "color": "--muted"}),
        (
            "beaten",
            [r for r in others if not r.broken_limits and not r.on_front],
            {"symbol": "circle-open", "color": "--muted"},
        ),
        ("Pareto front", [r for r in others if r.on_front], {"symbol": "circle", "color": "--accent"}),
    )
    unit, unit_ms = _latency_unit(rows)
    traces = [_trace(name, members, y, {"size": 9, **marker}, unit_ms) for name, members, marker in groups if members]
    for row in named:
        colour = "--best" if "best" in row.label else "--ink"
        symbol = "diamond" if row.on_front else "diamond-open"
        trace = _trace(row.label, [row], y, {"size": 13, "symbol": symbol, "color": colour}, unit_ms)
        traces.append({**trace, "mode": "markers+text", "text": [f"<b>{row.label}</b>"]})
    _keep_labels_inside(traces)
    layout: dict[str, Any] = {
        # From zero: a difference looks as large as it is.
        "xaxis": {"title": {"text": f"latency, {unit} per request (median)"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": y_title}, "rangemode": "tozero"},
        "shapes": [],
        "annotations": [],
    }
    words = f"Scatter plot of {len(rows)} configurations: latency against {what}. The table below has every figure."
    return {"data": traces, "layout": layout, "alt": words}


def _trace(
    name: str, rows: Sequence[Row], y: Callable[[Row], float], marker: Mapping[str, Any], unit_ms: float
) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [row.trial.figure("latency_ms") / unit_ms for row in rows],
        "y": [y(row) for row in rows],
        "marker": {**marker, "line": {"width": 2 if "open" in str(marker["symbol"]) else 0, "color": marker["color"]}},
        "customdata": [_hover(row) for row in rows],
        "hovertemplate": "%{customdata}<extra></extra>",
        "cliponaxis": False,
    }
    shapes = [row.trial.measurements["latency"] for row in rows]
    if all(len(shape) == 1 for shape in shapes):
        middle = [shape[0]["median_ms"] for shape in shapes]
        trace["error_x"] = {
            "type": "data",
            "symmetric": False,
            "array": [(shape[0]["max_ms"] - m) / unit_ms for shape, m in zip(shapes, middle, strict=True)],
            "arrayminus": [(m - shape[0]["min_ms"]) / unit_ms for shape, m in zip(shapes, middle, strict=True)],
            "thickness": 1,
            "width": 0,
            "color": marker["color"],
        }
    return trace


def _keep_labels_inside(traces: list[dict[str, Any]]) -> None:
    """Write labels of points near the left or right edge towards the middle."""
    widest = max(x for trace in traces for x in trace["x"])
    for trace in traces:
        if "text" in trace:
            share = trace["x"][0] / widest
            trace["textposition"] = "top right" if share < 0.2 else "top left" if share > 0.85 else "top center"


def _hover(row: Row) -> str:
    """Plotly reads a little HTML in hover texts, so names are escaped."""
    trial = row.trial
    lines = [f"<b>trial {trial.number}</b>" + (f" ({row.label})" if row.label else "")]
    lines += [
        html.escape(f"{name}({parameters})" if parameters else name) for name, parameters, _ in _steps(trial)
    ] or ["nothing changed"]
    lines.append(f"{milliseconds(trial.figure('latency_ms'))}, {row.speed:.2f} times the reference's speed")
    lines.append(f"{trial.figure('peak_vram_gib'):.2f} GiB, cold start {trial.figure('cold_start_s'):.1f} s")
    lines.append(f"pictures: {row.verdict}" + ("" if row.drift is None else f", drift {_drift(row.drift)}"))
    lines += [f"breaks a limit: {html.escape(words)}" for words in row.broken_limits]
    return "<br>".join(lines)


def _add_bands(plot: dict[str, Any], largest: float) -> None:
    """Names of the verdicts at their bands, and a line at each limit between them."""
    top = next(v.drift_limit for v in Verdict if v is Verdict.DIFFERENT or largest <= v.drift_limit)
    top = max(top, Verdict.NEAR_LOSSLESS.drift_limit)
    plot["layout"]["yaxis"] |= {"range": [-0.12, top + 0.18], "dtick": 1, "zeroline": False}
    for verdict in (Verdict.IMPERCEPTIBLE, Verdict.NEAR_LOSSLESS, Verdict.VISIBLE, Verdict.DIFFERENT):
        if verdict.drift_limit <= top:
            plot["layout"]["annotations"].append(
                {
                    "text": str(verdict), "xref": "paper", "x": 0.01, "xanchor": "left",
                    "yref": "y", "y": verdict.drift_limit - 0.5, "showarrow": False, "font": {"color": "--muted"},
                }
            )  # fmt: skip


def _add_limit(plot: dict[str, Any], axis: str, value: float) -> None:
    ends = {"x0": 0, "x1": 1, "xref": "paper", "y0": value, "y1": value, "yref": "y"}
    label = {"text": "the study's limit", "xref": "paper", "x": 1, "xanchor": "right", "yref": "y", "y": value}
    if axis == "x":
        ends = {"y0": 0, "y1": 1, "yref": "paper", "x0": value, "x1": value, "xref": "x"}
        label = {"text": "the study's limit", "yref": "paper", "y": 1, "xref": "x", "x": value, "xanchor": "right"}
    plot["layout"]["shapes"].append({"type": "line", "line": {"color": "--warn", "dash": "dash", "width": 1.5}, **ends})
    plot["layout"]["annotations"].append(
        {**label, "yanchor": "bottom" if axis == "y" else "top", "showarrow": False, "font": {"color": "--warn"}}
    )
