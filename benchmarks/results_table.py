"""Print a study's results as Markdown, for docs/results: python benchmarks/results_table.py NAME --storage URL."""

import argparse
import statistics
from collections.abc import Sequence

from paretune.agent.results import Limit, Results
from paretune.agent.review import Row, row_of, study_view
from paretune.search_space import Loss
from paretune.studies import DEFAULT_STORAGE, Records, UserError

PHASES = ("start", "load", "apply", "first_call", "warm_up", "measure", "memory", "pictures", "stages", "judge")


def main() -> None:
    """Print the table of one study."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name")
    parser.add_argument("--storage", default=DEFAULT_STORAGE)
    parser.add_argument("--memory-limits", type=float, nargs="*", default=[], help="GiB: the best within each")
    options = parser.parse_args()
    print("\n".join(table(Results(Records(options.storage, must_exist=True), options.name), options.memory_limits)))


def table(results: Results, memory_limits_gib: Sequence[float]) -> list[str]:
    """The lines of the document."""
    view = study_view(results)
    machine = results.fingerprint
    versions = ", ".join(f"{name} {version}" for name, version in machine.packages.items() if version)
    headings = ["trial", "latency", "speed", "peak memory", "cold start", "calls", "configuration"]
    lines = [
        f"# {results.study.description or view.name}",
        "",
        f"{machine.device_name}, driver {machine.driver}, CUDA {machine.cuda}, Python {machine.python}, {versions}.",
        f"{len(view.rows)} trials, {len(view.failures)} of them failed; {view.created_at[:10]}. "
        f"Pictures: {view.row(view.reference).verdict_text}.",
        "",
        " ".join([view.headline, *map(str, view.doubts)]),
        "",
        f"| | {' | '.join(headings)} |",
        "| --- |" + " --- |" * len(headings),
        _line("reference", view.row(view.reference)),
    ]
    if view.torch_compile is not None:
        lines.append(_line("torch.compile", view.row(view.torch_compile)))
    if view.torch_compile_best not in (None, view.torch_compile):
        lines.append(_line("torch.compile at its best", view.row(view.torch_compile_best)))
    for label, limit_gib, loss in [
        ("fastest", None, None),
        ("fastest without approximation", None, Loss.REORDERED),
        *((f"fastest within {limit:g} GiB", limit, None) for limit in memory_limits_gib),
    ]:
        limits = [] if limit_gib is None else [Limit("peak_vram_gib", "<=", limit_gib)]
        try:
            lines.append(_line(label, row_of(results.best(limits=limits, loss=loss))))
        except UserError:
            lines.append(f"| {label} | none was measured |" + " |" * (len(headings) - 1))
    lines += ["", "## All trials", "", f"| | {' | '.join(headings)} |", "| --- |" + " --- |" * len(headings)]
    lines += [_line(row.label, row) for row in view.rows]
    lines += ["", "## Seconds per trial", "", f"| trial | {' | '.join(PHASES)} |", "| --- |" + " --- |" * len(PHASES)]
    for row in view.rows:
        cells = " | ".join(f"{row.phases_s.get(phase, 0):.1f}" for phase in PHASES)
        lines.append(f"| {row.number} | {cells} |")
    medians = [statistics.median(row.phases_s.get(phase, 0) for row in view.complete) for phase in PHASES]
    lines.append(f"| median | {' | '.join(f'{median:.1f}' for median in medians)} |")
    return lines


def _line(label: str, row: Row) -> str:
    if not row.complete:
        cells = [str(row.number), row.outcome, "", "", "", "", f"{row.configuration_text}: {row.reason[:160]}"]
    else:
        figures = [row.figures["latency_ms"].text, row.speed_text + row.busy_text, row.figures["peak_vram_gib"].text]
        cells = [str(row.number), *figures, row.cold_start_text, ", ".join(row.calls), row.configuration_text]
    return f"| {label} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
