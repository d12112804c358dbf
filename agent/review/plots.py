"""The plots of a report, as plotly figures in plain data, and the rows that plots and tables are made of."""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...objectives.verdict import Verdict
from ...search_space import Loss, technique
from ..results.doubts import ended_early_words
from ..results.figures import Speed, cold_start_words, milliseconds
from ..results.results import Results, Trial


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
    speed: Speed
    """Against the reference."""
    calls: list[str]
    """How far the timed calls lie apart and why no more were made, a line per shape of request."""
    on_front: bool
    broken_limits: list[str]
    remarks: list[str]
    """What else has to be known of it: ties with the best one, ended early, measured elsewhere."""
    evidence: str = ""
    """How many pictures the verdict rests on, in words."""
    within_benign: bool | None = None
    """Whether its pictures drift no further than those of the same arithmetic in another order; None if unknown."""

    @property
    def ended_early(self) -> bool:
        """Whether measuring was cut short, because another one was clearly better."""
        return ended_early_words(self.trial) is not None


def steps_of(trial: Trial) -> list[tuple[str, str, Loss]]:
    """(technique, every parameter, what it may lose) in the order of application."""
    return [
        (
            step.technique,
            ", ".join(f"{name}={value}" for name, value in step.values().items()),
            technique(step.technique).loss,
        )
        for step in trial.configuration.steps
    ]


def drift_text(value: float) -> str:
    """Two decimals; what is not 0 never looks like it, because 0 is bit-exact."""
    return "< 0.01" if 0 < value < 0.005 else f"{value:.2f}"


def plots(results: Results, rows: Sequence[Row]) -> list[dict[str, Any]]:
    plots = []
    limits = results.study.limits
    if any(row.drift is not None for row in rows):
        plot = _plot(rows, "drift", lambda row: float(row.drift or 0), "drift of the pictures")
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
    early = [row for row in rows if not row.label and row.ended_early and not row.on_front]
    others = [row for row in rows if not row.label and row not in early]
    groups = (
        ("ended early", early, {"symbol": "triangle-right-open", "color": "--muted"}),
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
        html.escape(f"{name}({parameters})" if parameters else name) for name, parameters, _ in steps_of(trial)
    ] or ["nothing changed"]
    fast = "a tie with the reference" if row.speed.tie else f"{row.speed.times:.2f} times the reference's speed"
    lines.append(f"{milliseconds(trial.figure('latency_ms'))}, {fast}")
    lines.append(f"{trial.figure('peak_vram_gib'):.2f} GiB, cold start {cold_start_words(trial)}")
    lines.append(f"pictures: {row.verdict}" + ("" if row.drift is None else f", drift {drift_text(row.drift)}"))
    lines += [f"breaks a limit: {html.escape(words)}" for words in row.broken_limits]
    lines += [html.escape(words) for words in row.remarks]
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
