"""What each technique of a trial earns, as lines of text and as bars."""

from typing import Any

from ...objectives.figures import FIGURE
from ..results import Ablation, Earned


def ablation_lines(found: Ablation) -> list[str]:
    """For the terminal: one line a technique, what earns most first."""
    lines = [
        f"trial {found.trial}: {FIGURE['latency_ms'].text(found.whole_ms)}, "
        f"{FIGURE['peak_vram_gib'].text(found.whole_gib)}, in {found.blocks} blocks"
    ]
    for one in found.ranked():
        if one.without is None or one.without_ms is None:
            lines.append(f"  {one.technique}: could not be left out ({one.left_out})")
            continue
        unsure = " (a tie)" if one.without.decision == "tie" else ""
        words = f"  {one.technique}: without it {one.without_ms:+.0f} ms{unsure}"
        if one.without_gib is not None:
            words += f", {one.without_gib:+.2f} GiB"
        if one.alone is not None:
            low, high = one.alone.interval
            words += f"; alone {one.alone.times:.2f} times as fast as the reference ({low:.2f} to {high:.2f})"
        lines.append(words)
    return lines


def ablation_plot(found: Ablation) -> dict[str, Any]:
    """Bars of what a request costs more without each technique, in ms, with the 95 % interval."""
    shown: list[tuple[Earned, float]] = [(one, one.without_ms) for one in found.earned if one.without_ms is not None]
    shown.sort(key=lambda pair: pair[1])
    intervals = [one.without for one, _ in shown if one.without is not None]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [milliseconds for _, milliseconds in shown],
        "y": [one.technique for one, _ in shown],
        "marker": {"color": "--accent"},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [found.whole_ms * (one.high - one.ratio) for one in intervals],
            "arrayminus": [found.whole_ms * (one.ratio - one.low) for one in intervals],
            "thickness": 1,
            "color": "--ink",
        },
        "hovertemplate": "%{y}: %{x:.0f} ms<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": "ms per request that leaving it out costs"}},
        "yaxis": {"automargin": True},
        "showlegend": False,
    }
    return {"id": f"plot-ablation-{found.trial}", "data": [trace], "layout": layout}
