"""A replayed study with any number of trials, for pages that have to stay quick."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paretune.agent.results import Results
from paretune.search_space import Configuration
from support.replayed import measured, replay, trial_run

VERDICTS = (("imperceptible", 0.4, 47.0), ("near-lossless", 1.6, 36.0), ("visible", 2.4, 21.0))


def many(folder: Path, count: int) -> Results:
    """The replayed study with `count` more trials, none of which has pictures."""
    results = replay(folder)
    numbers = random.Random(0)
    runs = []
    for number, configuration in zip(range(10, 10 + count), _configurations(), strict=False):
        verdict = numbers.choice(VERDICTS)
        figures: tuple[Any, ...] = (numbers.uniform(350, 1100), numbers.uniform(1.6, 3.0), *verdict)
        runs.append(trial_run(folder, number, configuration, "cpu", measurements=measured(*figures, device="cpu")))
    results.records.add_runs(runs)
    return results.refresh()


def _configurations() -> Iterator[Configuration]:
    """None that the replayed study has: every cache with every set of switches."""
    switches = ("cudnn_benchmark", "tf32", "fp16_accumulation", "expandable_segments", "fused_qkv", "vae_slicing")
    for on in itertools.product((False, True), repeat=len(switches)):
        chosen: dict[str, Any] = {name: {} for name, wanted in zip(switches, on, strict=True) if wanted}
        for interval, branch, percent in itertools.product((2, 3, 4, 5), (0, 1, 2), (30, 50, 70)):
            cache = {"interval": interval, "branch": branch, "full_percent": percent}
            yield Configuration.of({**chosen, "deepcache": cache})
