"""Judge known damage and draw it: python benchmarks/quality_ladder.py > ladder.md

Prints the rules in force and the ladder of tests/support/ladder.py as Markdown, and writes docs/quality-ladder.png.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from paretune.objectives.images import to_uint8
from paretune.objectives.pictures import PictureJudgement
from paretune.objectives.verdict import CAPS, THRESHOLDS, Verdict
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.ladder import LADDER, NAMES, Rung, caps_table, picture, series_of, thresholds_table  # noqa: E402

SHOWN = {"psnr_db": "PSNR {:.1f} dB", "worst_tile_psnr_db": "tile {:.1f}", "ssimulacra2": "SSIMULACRA2 {:.0f}"}
SHOWN |= {"delta_e_mean": "dE {:.2f}"}
COLOURS = {
    Verdict.BIT_EXACT: (40, 90, 160),
    Verdict.IMPERCEPTIBLE: (24, 122, 74),
    Verdict.NEAR_LOSSLESS: (96, 140, 30),
    Verdict.VISIBLE: (196, 128, 0),
    Verdict.DIFFERENT: (204, 76, 20),
    Verdict.BROKEN: (160, 24, 40),
    Verdict.NOT_ASSESSED: (110, 110, 110),
}
SIDE_PX, GAP_PX, LABEL_PX, BAND_PX, LINE_PX = 256, 12, 220, 32, 25
_TEXT_PX = 20


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet; without a judgement it is a reference."""

    picture_CHW: Tensor
    judgement: PictureJudgement | None = None
    title: str = ""


def draw_sheet(rows: Sequence[tuple[str, Sequence[Cell]]], file: Path) -> None:
    """Rows of pictures, each with its verdict in a coloured band and its main metrics below, as PNG or WebP."""
    columns = max(len(cells) for _, cells in rows)
    lines = max(len(_lines(cell)) for _, cells in rows for cell in cells)
    titles = LINE_PX if any(cell.title for _, cells in rows for cell in cells) else 0
    row_px = titles + SIDE_PX + BAND_PX + lines * LINE_PX + GAP_PX
    sheet = Image.new("RGB", (LABEL_PX + columns * (SIDE_PX + GAP_PX), len(rows) * row_px + GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    font, bold = ImageFont.load_default(_TEXT_PX), ImageFont.load_default(_TEXT_PX + 2)
    for row, (label, cells) in enumerate(rows):
        top = GAP_PX + row * row_px
        draw.multiline_text((GAP_PX, top + titles), label, fill="black", font=bold, spacing=8)
        for column, cell in enumerate(cells):
            left, y = LABEL_PX + column * (SIDE_PX + GAP_PX), top
            draw.text((left, y), cell.title, fill="black", font=font)
            y += titles
            sheet.paste(_thumbnail(cell.picture_CHW), (left, y))
            y += SIDE_PX
            verdict = None if cell.judgement is None else cell.judgement.verdict
            colour = (70, 70, 70) if verdict is None else COLOURS[verdict]
            draw.rectangle((left, y, left + SIDE_PX - 1, y + BAND_PX - 1), fill=colour)
            draw.text((left + 8, y + 3), verdict or "reference", fill="white", font=bold)
            for number, line in enumerate(_lines(cell)):
                draw.text((left, y + BAND_PX + 3 + number * LINE_PX), line, fill="black", font=font)
    if file.suffix == ".webp":
        sheet.save(file, lossless=True, method=6)  # a lossy sheet would add damage of its own
    else:
        sheet.save(file, optimize=True)


def held_back_by(judgement: PictureJudgement) -> list[str]:
    """The metrics and flags that keep a picture from the next better verdict, or the detector that broke it."""
    if judgement.broken is not None:
        return [judgement.broken.partition(":")[0]]
    better = list(Verdict)[max(0, judgement.verdict.rank - 1)]
    if not Verdict.IMPERCEPTIBLE.at_least(better) or better is Verdict.BIT_EXACT:
        return []
    rows = [row for row in THRESHOLDS if row.metric in judgement.metrics]
    metrics = [row.metric for row in rows if not row.meets(judgement.metrics[row.metric], better)]
    flagged = {flag.partition(":")[0] for flag in judgement.flags}
    return metrics + [cap.detector for cap in CAPS if cap.detector in flagged and not cap.at_best.at_least(better)]


def flags_of(judgements: Sequence[PictureJudgement]) -> str:
    """The detectors that spoke, each with the number of pictures."""
    names = [flag.partition(":")[0] for judgement in judgements for flag in judgement.flags]
    return ", ".join(f"{name} {names.count(name)}" for name in dict.fromkeys(names))


def _lines(cell: Cell) -> list[str]:
    if cell.judgement is None:
        return []
    flags = [flag.partition(":")[0] for flag in cell.judgement.flags]
    detectors = ["! " + ", ".join(flags[:2])] if flags else []
    if cell.judgement.broken is not None:  # its metrics decided nothing
        return detectors
    metrics: Mapping[str, float] = cell.judgement.metrics
    texts = [text.format(metrics[name]) for name, text in SHOWN.items() if name in metrics]
    return [", ".join(texts[i : i + 2]) for i in range(0, len(texts), 2)] + detectors


def _thumbnail(picture_CHW: Tensor) -> Image.Image:
    pixels_HWC = to_uint8(picture_CHW).permute(1, 2, 0).contiguous().numpy()
    # Every pixel as a square: smoothing would hide what is to be seen.
    return Image.fromarray(pixels_HWC).resize((SIDE_PX, SIDE_PX), Image.Resampling.NEAREST)


def _table(judgements: Mapping[str, Sequence[PictureJudgement]]) -> list[str]:
    shown = [name for name in SHOWN if name in next(iter(judgements.values()))[0].metrics]
    lines = [
        f"| damage | strength | allowed | verdicts | {' | '.join(shown)} | detectors |",
        f"| --- | --- | --- | --- | {'--- | ' * len(shown)}--- |",
    ]
    for rung in LADDER:
        mine = judgements[rung.name]
        counts = {verdict: sum(j.verdict is verdict for j in mine) for verdict in Verdict}
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        allowed = rung.allowed if rung.from_run else f"{rung.allowed} (own)"
        values = " | ".join(f"{statistics.median(j.metrics[name] for j in mine):.2f}" for name in shown)
        lines.append(f"| {rung.series} | {rung.strength} | {allowed} | {verdicts} | {values} | {flags_of(mine)} |")
    return lines


def main() -> None:
    """Print the tables and write the figure."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "quality-ladder.png")
    parser.add_argument("--shown", choices=NAMES, default="top-hat", help="the picture in the figure")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = {name: picture(name) for name in NAMES}
    judgements = {rung.name: [rung.judge(pictures[name]) for name in NAMES] for rung in LADDER}
    print("\n".join([*thresholds_table(), "", *caps_table(), "", *_table(judgements)]))
    outside = [r.name for r in LADDER if not all(r.allows(j.verdict) for j in judgements[r.name])]
    print(f"\nOutside of what is allowed: {', '.join(outside) or 'none'}.")

    shown = pictures[options.shown]

    def cell(rung: Rung) -> Cell:
        return Cell(rung.apply(shown)[0], judgements[rung.name][NAMES.index(options.shown)], rung.strength)

    rows = [("reference", [Cell(shown[0])])]
    rows += [(series, [cell(rung) for rung in rungs]) for series, rungs in series_of(LADDER).items()]
    draw_sheet(_merged(rows), options.figure)


def _merged(rows: Sequence[tuple[str, list[Cell]]]) -> list[tuple[str, list[Cell]]]:
    """Rows of a single picture are put into one row, their names above the pictures."""
    singles = [(label, cells[0]) for label, cells in rows if len(cells) == 1]
    first = [Cell(c.picture_CHW, c.judgement, f"{label}: {c.title}" if c.title else label) for label, c in singles]
    return [("", first), *((label, cells) for label, cells in rows if len(cells) > 1)]


if __name__ == "__main__":
    main()
