"""Print a study's results as Markdown, for docs/results: python benchmarks/results_table.py NAME --storage URL."""

import argparse
import statistics
from collections.abc import Sequence

from paretune.agent.results.figures import cold_start_words, milliseconds, quality, speed, spread
from paretune.agent.results.results import Results, Trial
from paretune.agent.results.summary import gain
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
    machine = results.fingerprint
    versions = ", ".join(f"{name} {version}" for name, version in machine.packages.items() if version)
    lines = [
        f"# {results.study.description or results.name}",
        "",
        f"{machine.device_name}, driver {machine.driver}, CUDA {machine.cuda}, Python {machine.python}, {versions}.",
        f"{len(results.trials)} trials, {len(results.failures)} of them failed; {results.record.created_at[:10]}. "
        f"Pictures: {quality(results, results.reference)}.",
        "",
        gain(results),
        "",
        "| | latency, median | spread | speed | peak memory | cold start | configuration |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows: list[tuple[str, Trial]] = [("reference", results.reference)]
    if results.torch_compile is not None and results.torch_compile.complete:
        rows.append(("torch.compile", results.torch_compile))
    for label, limit_gib, loss in [
        ("fastest", None, None),
        ("fastest without approximation", None, Loss.REORDERED),
        *((f"fastest within {limit:g} GiB", limit, None) for limit in memory_limits_gib),
    ]:
        try:
            rows.append((label, _fastest(results, limit_gib, loss)))
        except UserError:
            lines.append(f"| {label} | none was measured | | | | | |")
    lines += [_row(results, label, trial) for label, trial in rows]
    lines += ["", "## All trials", "", "| trial | latency | speed | peak memory | cold start | configuration |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for trial in results.trials:
        if trial.complete:
            lines.append(
                f"| {trial.number} | {milliseconds(trial.figure('latency_ms'))} ({spread(trial)}) "
                f"| {speed(results, trial)} | {trial.figure('peak_vram_gib'):.2f} GiB "
                f"| {cold_start_words(trial)} | {trial.configuration} |"
            )
        else:
            lines.append(f"| {trial.number} | {trial.outcome} | | | | {trial.configuration}: {trial.reason[:160]} |")
    lines += ["", "## Seconds per trial", "", f"| trial | {' | '.join(PHASES)} |", "| --- |" + " --- |" * len(PHASES)]
    for trial in results.trials:
        cells = " | ".join(f"{trial.phases_s.get(phase, 0):.1f}" for phase in PHASES)
        lines.append(f"| {trial.number} | {cells} |")
    medians = [statistics.median(t.phases_s.get(phase, 0) for t in results.complete) for phase in PHASES]
    lines.append(f"| median | {' | '.join(f'{median:.1f}' for median in medians)} |")
    return lines


def _fastest(results: Results, limit_gib: float | None, loss: Loss | None) -> Trial:
    from paretune.agent.results.limits import Limit

    limits = [] if limit_gib is None else [Limit("peak_vram_gib", "<=", limit_gib)]
    return results.best(limits=limits, loss=loss)


def _row(results: Results, label: str, trial: Trial) -> str:
    return (
        f"| {label} | {milliseconds(trial.figure('latency_ms'))} | {spread(trial)} "
        f"| {speed(results, trial)} | {trial.figure('peak_vram_gib'):.2f} GiB "
        f"| {cold_start_words(trial)} | {trial.configuration} |"
    )


if __name__ == "__main__":
    main()
