"""Draw how soon a new worker has its first picture: docs/cold-start.png, from the table of a page in docs/results.

    python benchmarks/cold_start_chart.py docs/results/cold-start-h200.md --out docs/cold-start.png

Bars: seconds of load and first image, the page's medians, with the lowest and the highest where there are several.
"""

import argparse
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bars import BLUE, EDGE_PX, FONT, GREY, INK, RED, SMALL, WIDTH_PX, interval, save, sheet

ROW_PX, GAP_PX, HEAD_PX = 38, 18, 128
NAMES_PX, WORDS_PX = 390, 330
COMPILES, LOADS, NEITHER = RED, BLUE, GREY
FIGURE = r"\*\*([\d.]+)\*\*(?: \(([\d.]+) to ([\d.]+)\))?(?:, (\d+) at once)?"
"""Of the middle one of several processes, or of a single one; the lowest and the highest; how many ran at once."""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    configuration: str
    way: str
    n: int
    seconds: float
    low_s: float
    high_s: float
    beside: int
    """So many were measured at once."""
    times: str
    """As a share of what compiling takes, in the page's words."""


def main() -> None:
    """Draw one chart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/cold-start.png"))
    options = parser.parse_args()
    text = options.page.read_text(encoding="utf-8")
    rows = rows_of(text)
    if not rows:
        raise SystemExit(f"{options.page} has no table of cold starts: benchmarks/cold_start.py writes one")
    draw_chart(rows, heading(text), options.out)


def rows_of(text: str) -> list[Row]:
    """The table's lines in which something was measured, each configuration's beside each other, the slowest first."""
    found = []
    below = text[text.find("\n| ") + 1 :] if not text.startswith("| ") else text
    lines = list(itertools.takewhile(lambda line: line.startswith("| "), below.splitlines()))
    names = [cell.strip(" *") for cell in lines[0].strip("| ").split(" | ")] if lines else []
    for line in lines[2:]:
        cells = dict(zip(names, [cell.strip() for cell in line.strip("|").split("|")], strict=False))
        middle = re.match(FIGURE, cells.get("load + first image s", ""))
        if middle is None:
            continue
        seconds = float(middle[1])
        low, high = (float(middle[number] or seconds) for number in (2, 3))
        share = next(cells[name] for name in names if name.startswith("÷"))
        beside = int(middle[4] or 1)
        found.append(Row(cells["configuration"], cells["way"], int(cells["n"]), seconds, low, high, beside, share))
    order = list(dict.fromkeys(row.configuration for row in found))
    return sorted(found, key=lambda row: (order.index(row.configuration), -row.seconds))


def heading(text: str) -> Sequence[str]:
    """What was measured, on what: the page's title and the first sentence below it, which names the versions."""
    title, _, rest = text.removeprefix("# ").partition("\n")
    machine = rest.strip().split(". ", 1)[0].replace("\n", " ")
    return title, "Seconds of loading and of the first picture, after imports and weights", machine


def draw_chart(rows: Sequence[Row], said: Sequence[str], file: Path) -> None:
    """A bar for each row."""
    longest = max(row.high_s for row in rows)
    per_s = (WIDTH_PX - NAMES_PX - WORDS_PX - 2 * EDGE_PX) / longest
    groups = len({row.configuration for row in rows})
    image, draw = sheet(said, HEAD_PX + ROW_PX * len(rows) + GAP_PX * groups + EDGE_PX // 2)
    top, zero, last = HEAD_PX, NAMES_PX + EDGE_PX, rows[0].configuration
    for row in rows:
        top += GAP_PX if row.configuration != last else 0
        last = row.configuration
        draw.text((EDGE_PX, top + 5), f"{row.configuration}: {row.way}", fill=INK, font=FONT)
        color = COMPILES if "compil" in row.way else LOADS if "bundle" in row.way else NEITHER
        draw.rectangle((zero, top + 4, zero + row.seconds * per_s, top + 28), fill=color)
        if row.high_s > row.low_s:
            interval(draw, top + 16, zero + row.low_s * per_s, zero + row.high_s * per_s)
        share = f", {row.times} of compiling" if row.times.startswith("1/") else ""
        beside = f", {row.beside} at once" if row.beside > 1 else ""
        words = f"{row.seconds:.2f} s (n = {row.n}{beside}){share}"
        draw.text((zero + row.high_s * per_s + 12, top + 6), words, fill=INK, font=SMALL)
        top += ROW_PX
    save(image, file)


if __name__ == "__main__":
    main()
