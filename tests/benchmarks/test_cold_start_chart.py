"""The README's chart of cold starts says what the page of results says."""

from pathlib import Path

import bars
import cold_start_chart
from PIL import Image

PAGE = Path(cold_start_chart.__file__).parents[1] / "docs" / "results" / "cold-start-h200.md"


def test_the_chart_has_every_measured_row_of_the_page(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = cold_start_chart.rows_of(text)
    assert len(rows) == sum("**" in line for line in text.splitlines() if line.startswith("| ")) - 1  # but the head
    for row in rows:
        assert f"**{row.seconds:.2f}**" in text
        assert row.low_s <= row.seconds <= row.high_s
        assert row.times == "1" or row.times.startswith("1/")
    cold_start_chart.draw_chart(rows, cold_start_chart.heading(text), tmp_path / "chart.png")
    assert Image.open(tmp_path / "chart.png").width == bars.WIDTH_PX


def test_rows_without_a_figure_are_left_out() -> None:
    head = "| configuration | way | n | **load + first image s** | ÷ compiling |\n| --- | --- | --- | --- | --- |\n"
    rows = cold_start_chart.rows_of(
        head
        + "| whole | max-autotune | 0 | not ready after 400 s | |\n"
        + "| whole | eager | 2 | **3.00** (2.50 to 4.00) | 1/30.0 |\n"
        + "| whole | compiling | 1 | **90.00**, 3 at once | 1 |\n"
    )
    assert [(row.way, row.seconds, row.high_s) for row in rows] == [("compiling", 90.0, 90.0), ("eager", 3.0, 4.0)]
