"""Draw what each technique of a trial earns: docs/ablation.png, from a study that `paretune ablate` was run on.

    paretune launch sdxl --set workload.pipelines.main.weights=random --storage sqlite:///sdxl.db
    paretune ablate sdxl --blocks 5 --storage sqlite:///sdxl.db
    python benchmarks/ablation_chart.py sdxl --storage sqlite:///sdxl.db --out docs/ablation.png

Without --trial, the ablated trial that is fastest. Bars: what a request takes longer when one technique is left out,
with the 95 % interval. Techniques share what there is to gain, so bars need not add up to the whole gain.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bars import BLUE, EDGE_PX, FONT, INK, MUTED, RED, SMALL, WIDTH_PX, interval, save, sheet
from paretune.agent.results import Ablation, Earned, Results, ablation_of
from paretune.objectives.figures import FIGURE
from paretune.studies import DEFAULT_STORAGE, Records

ROW_PX, HEAD_PX = 52, 128
NAMES_PX, WORDS_PX = 310, 480
EARNS, COSTS = BLUE, RED


def main() -> None:
    """Draw one chart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--trial", type=int)
    parser.add_argument("--storage", default=DEFAULT_STORAGE)
    parser.add_argument("--out", type=Path, default=Path("docs/ablation.png"))
    options = parser.parse_args()
    results = Results(Records(options.storage, must_exist=True), options.name)
    trials = results.complete if options.trial is None else [results.trial(options.trial)]
    found = [one for trial in trials if (one := ablation_of(results, trial)) is not None]
    if not found:
        raise SystemExit(f"no ablation of {options.name} was measured: paretune ablate {options.name} does that")
    best = min(found, key=lambda one: one.whole_ms)
    draw_chart(best, heading(results, best), options.out)


def heading(results: Results, found: Ablation) -> Sequence[str]:
    """What was measured, on what."""
    machine, trial = results.fingerprint, results.trial(found.trial)
    pictures = trial.verdict_words()
    versions = ", ".join(f"{name} {machine.packages[name]}" for name in ("torch", "diffusers"))
    return (
        f"What each technique of trial {found.trial} earns: {FIGURE['latency_ms'].text(found.whole_ms)} a request "
        f"with all of them, {trial.speed.times or 0:.2f} times as fast as the reference",
        f"{results.study.description or results.name} Pictures: {pictures}.",
        f"{machine.device_name}, {versions}; {found.blocks} blocks of fresh processes",
    )


def draw_chart(found: Ablation, said: Sequence[str], file: Path) -> None:
    """A bar for each technique that could be left out, what earns most first; the others with the reason."""
    rows = found.ranked()
    ends = [found.whole_ms * (one.without.high - 1) for one in rows if one.without is not None]
    starts = [found.whole_ms * (one.without.low - 1) for one in rows if one.without is not None]
    longest, lowest = max([1.0, *ends]), min([0.0, *starts])
    per_ms = (WIDTH_PX - NAMES_PX - WORDS_PX - 2 * EDGE_PX) / (longest - lowest)
    zero = NAMES_PX + EDGE_PX - lowest * per_ms
    image, draw = sheet(said, HEAD_PX + ROW_PX * len(rows) + EDGE_PX)
    for number, one in enumerate(rows):
        top = HEAD_PX + ROW_PX * number
        draw.text((EDGE_PX, top + 8), one.technique, fill=INK, font=FONT)
        if one.without is None or one.without_ms is None:
            draw.text((zero + 8, top + 8), f"could not be left out: {one.left_out}"[:80], fill=MUTED, font=SMALL)
            continue
        left, right = sorted((zero, zero + one.without_ms * per_ms))
        draw.rectangle((left, top + 6, right, top + 34), fill=EARNS if one.without_ms >= 0 else COSTS)
        low, high = (zero + found.whole_ms * (ratio - 1) * per_ms for ratio in (one.without.low, one.without.high))
        interval(draw, top + 20, low, high)
        draw.text((max(right, high) + 12, top + 9), words(one), fill=INK, font=SMALL)
    draw.line((zero, HEAD_PX, zero, HEAD_PX + ROW_PX * len(rows)), fill=MUTED, width=1)
    save(image, file)


def words(one: Earned) -> str:
    """What stands at the end of a bar."""
    tie = ", a tie" if one.without is not None and one.without.decision == "tie" else ""
    memory = "" if one.without_gib is None else f", {one.without_gib:+.1f} GiB"
    alone = "" if one.alone is None else f"; alone {one.alone.times:.2f} times as fast"
    return f"without it {one.without_ms:+.0f} ms{tie}{memory}{alone}"


if __name__ == "__main__":
    main()
