"""Confirming blocks: processes of several configurations that took turns, read as latencies per trial and block."""

from collections.abc import Sequence

from ...objectives.measuring.intervals import Comparison, compare_paired
from ...studies import Outcome, RunRecord

BLOCK = "block"
LEAST_BLOCKS = 2

Latencies = dict[int, dict[int, float]]
"""{trial: {block: latency_ms}}"""


def newest_blocks(runs: Sequence[RunRecord]) -> Latencies:
    """Of the newest confirmation in which two or more configurations have enough blocks to compare; empty when there is
    none. One that failed in its blocks is left out, and takes nothing from the others.
    """
    for session in sorted({run.session for run in runs}, reverse=True):
        latencies: Latencies = {}
        for run in runs:
            if run.session == session and run.outcome == Outcome.COMPLETE:
                latencies.setdefault(run.trial, {})[run.position] = float(run.measurements["latency_ms"])
        enough = {trial: blocks for trial, blocks in latencies.items() if len(blocks) >= LEAST_BLOCKS}
        if len(enough) > 1:
            return enough
    return {}


def compare_trials(latencies: Latencies, baseline: int, candidate: int) -> Comparison | None:
    """A candidate against a baseline, from the blocks that measured both; None when there are too few."""
    blocks = sorted(set(latencies.get(baseline, {})) & set(latencies.get(candidate, {})))
    if len(blocks) < LEAST_BLOCKS:
        return None
    return compare_paired([latencies[baseline][b] for b in blocks], [latencies[candidate][b] for b in blocks])
