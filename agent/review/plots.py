"""The plots of a report, as plotly figures in plain data."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from ...objectives.figures import FIGURE
from ...objectives.verdict import Verdict
from .rows import Row
from .view import StudyView


def plots(view: StudyView) -> list[dict[str, Any]]:
    """Latency against drift, where pictures were judged, and against memory; none of a single configuration."""
    rows, limits = view.complete, view.study["limits"]
    if len(rows) < 2:
        return []
    plots = []
    if view.quality_assessed:
        plot = _plot(rows, "drift", "drift of the pictures")
        _add_bands(plot, max(_value(row, "drift") for row in rows))
        if limits["verdict"] is not None:
            _add_limit(plot, "y", Verdict(limits["verdict"]).drift_limit)
        plots.append({"id": "plot-drift", "title": "Latency and pictures", **plot})
    plot = _plot(rows, "peak_vram_gib", "peak memory, GiB")
    if limits["peak_vram_gib"] is not None:
        _add_limit(plot, "y", limits["peak_vram_gib"])
    plots.append({"id": "plot-memory", "title": "Latency and memory", **plot})
    for plot in plots:
        if limits["latency_ms"] is not None:
            _add_limit(plot, "x", limits["latency_ms"] / _latency_unit(rows)[1])
    return plots


def _value(row: Row, figure: str) -> float:
    return row.figures[figure].value


def _latency_unit(rows: Sequence[Row]) -> tuple[str, float]:
    """The axis's unit, and how many ms it has."""
    slowest = max(_value(row, "latency_ms") for row in rows)
    return ("s", 1000.0) if slowest >= 2000 else ("ms", 1.0)


def _plot(rows: Sequence[Row], figure: str, y_title: str) -> dict[str, Any]:
    named = [row for row in rows if row.label]
    early = [row for row in rows if not row.label and row.ended_early_by is not None and not row.on_front]
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
    traces = [
        _trace(name, members, figure, {"size": 9, **marker}, unit_ms) for name, members, marker in groups if members
    ]
    for row in named:
        colour = "--best" if "best" in row.label.split(", ") else "--ink"
        symbol = "diamond" if row.on_front else "diamond-open"
        trace = _trace(row.label, [row], figure, {"size": 13, "symbol": symbol, "color": colour}, unit_ms)
        traces.append({**trace, "mode": "markers+text", "text": [f"<b>{row.label}</b>"]})
    _keep_labels_inside(traces)
    layout: dict[str, Any] = {
        # From zero: a difference looks as large as it is.
        "xaxis": {"title": {"text": f"latency, {unit} per request (median)"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": y_title}, "rangemode": "tozero"},
        "shapes": [],
        "annotations": [],
    }
    what = FIGURE[figure].label
    words = f"Scatter plot of {len(rows)} configurations: latency against {what}. The table below has every figure."
    return {"data": traces, "layout": layout, "alt": words}


def _trace(name: str, rows: Sequence[Row], figure: str, marker: Mapping[str, Any], unit_ms: float) -> dict[str, Any]:
    latencies = [_value(row, "latency_ms") / unit_ms for row in rows]
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": latencies,
        "y": [_value(row, figure) for row in rows],
        "marker": {**marker, "line": {"width": 2 if "open" in str(marker["symbol"]) else 0, "color": marker["color"]}},
        "customdata": [_hover(row) for row in rows],
        "hovertemplate": "%{customdata}<extra></extra>",
        "cliponaxis": False,
    }
    ranges = [row.call_range for row in rows if row.call_range is not None]
    if len(ranges) == len(rows):
        trace["error_x"] = {
            "type": "data",
            "symmetric": False,
            "array": [latency * (high - 1) for latency, (_, high) in zip(latencies, ranges, strict=True)],
            "arrayminus": [latency * (1 - low) for latency, (low, _) in zip(latencies, ranges, strict=True)],
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
    lines = [f"<b>trial {row.number}</b>" + (f" ({row.label})" if row.label else "")]
    done = [step.technique + (f"({step.parameters_text})" if step.parameters else "") for step in row.steps]
    lines += [html.escape(words) for words in done] or ["nothing changed"]
    lines.append(f"{row.figures['latency_ms'].text}, speed {row.speed_text}")
    lines.append(f"{row.figures['peak_vram_gib'].text}, cold start {row.cold_start_text}")
    pictures = f"{row.drift_pictures} picture{'' if row.drift_pictures == 1 else 's'}"
    drift = f", drift {row.figures['drift'].text} on {pictures}" if "drift" in row.figures else ""
    lines.append(f"pictures: {row.verdict_text}{drift}")
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
    other = "y" if axis == "x" else "x"
    ends = {f"{axis}0": value, f"{axis}1": value, f"{axis}ref": axis, f"{other}0": 0, f"{other}1": 1}
    label = {"text": "the study's limit", "textposition": "end", "textangle": 0, "xanchor": "right"}
    label |= {"yanchor": "top" if axis == "x" else "bottom", "font": {"color": "--warn"}}
    line = {"color": "--warn", "dash": "dash", "width": 1.5}
    shape = {"type": "line", "line": line, f"{other}ref": "paper", "label": label, **ends}
    plot["layout"]["shapes"].append(shape)
