"""Confirming blocks: processes of several configurations that took turns, read as latencies per trial and block."""

from collections.abc import Sequence

from ..objectives.intervals import Comparison, compare_paired
from ..studies import Outcome, RunRecord

BLOCK = "block"
LEAST_BLOCKS = 2

Latencies = dict[int, dict[int, float]]
"""{trial: {block: latency_ms}}"""


def newest_blocks(runs: Sequence[RunRecord]) -> Latencies:
    """Of the newest confirmation that has enough blocks to compare with; empty when there is none."""
    for session in sorted({run.session for run in runs}, reverse=True):
        latencies: Latencies = {}
        for run in runs:
            if run.session == session and run.outcome == Outcome.COMPLETE:
                latencies.setdefault(run.trial, {})[run.position] = float(run.measurements["latency_ms"])
        if len(latencies) > 1 and all(len(blocks) >= LEAST_BLOCKS for blocks in latencies.values()):
            return latencies
    return {}


def compare_trials(latencies: Latencies, baseline: int, candidate: int) -> Comparison | None:
    """A candidate against a baseline, from the blocks that measured both; None when there are too few."""
    blocks = sorted(set(latencies.get(baseline, {})) & set(latencies.get(candidate, {})))
    if len(blocks) < LEAST_BLOCKS:
        return None
    return compare_paired([latencies[baseline][b] for b in blocks], [latencies[candidate][b] for b in blocks])
