"""Searches tried on recorded tables: how soon does each find what the table has?

    python benchmarks/search.py benchmarks/tables/*.jsonl.gz --out docs/results/search.md
    python benchmarks/search.py --seeds 5 --policy ours --policy tpe TABLE

A table holds what was measured of many configurations (benchmarks/record_table.py), and search_tables.py says what is
answered to what was not. A search (search_policies.py) may propose any configuration of the table's techniques and
values. Combinations that are known to be impossible, and those that do the same as one that was tried, cost nothing, as
in a launch. Each try is kept in a file (--kept), so that what was interrupted goes on. GPSampler needs scipy.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process per try: threads would only wait for each other

from paretune.search_space import Configuration
from record_table import NEAR_LOSSLESS
from search_policies import AMONG_ROWS, MEANING, POLICIES
from search_tables import LARGE, Answer, Table

TRIALS = 60
MARKS = (20, 40, 60)
NEAR = 1.05


def volume(table: Table, answers: Sequence[Answer]) -> float:
    """What the acceptable ones dominate, of the box between nothing and the reference."""
    reference = table.answer(Configuration()).objectives
    corner = (reference[0], reference[1] * 1.5, NEAR_LOSSLESS)
    points = [one.objectives for one in answers if one.acceptable]
    scaled = [tuple(v / c for v, c in zip(point, corner, strict=False)) for point in points]
    inside = sorted(point for point in scaled if all(value < 1 for value in point))
    return _volume(inside, len(reference))


def _volume(points: list[tuple[float, ...]], dimensions: int) -> float:
    if not points:
        return 0.0
    if dimensions == 1:
        return 1 - min(point[0] for point in points)
    # Slices along the last dimension.
    levels = [*sorted({point[dimensions - 1] for point in points}), 1.0]
    return sum(
        (above - level) * _volume([p for p in points if p[dimensions - 1] <= level], dimensions - 1)
        for level, above in itertools.pairwise(levels)
    )


def try_policy(table: Table, name: str, seed: int, trials: int = TRIALS) -> dict[str, Any]:
    """One search."""
    answers = [table.answer(Configuration())]
    minutes = answers[0].seconds / 60
    reached: tuple[int, float] | None = None
    volumes: dict[str, float] = {}
    limit_ms = NEAR * table.best_ms
    began = time.perf_counter()
    for number, configuration in enumerate(itertools.islice(POLICIES[name](table, seed), trials), start=1):
        found = table.answer(configuration)
        answers.append(found)
        minutes += found.seconds / 60
        if reached is None and found.acceptable and found.latency_ms <= limit_ms:
            reached = number, minutes
        if number in MARKS:
            volumes[str(number)] = volume(table, answers)
    return {
        "reached": reached,
        "volumes": volumes,
        "last": volume(table, answers),
        "minutes": minutes,
        "modelled": sum(not one.measured for one in answers[1:]),
        "failed": sum(not one.works for one in answers[1:]),
        "trials": len(answers) - 1,
        "best_ms": min(one.latency_ms for one in answers if one.acceptable),
        "took_s": round(time.perf_counter() - began, 1),
    }


_tables: dict[str, Table] = {}


def _task(task: tuple[str, str, int]) -> tuple[tuple[str, str, int], dict[str, Any]]:
    file, name, seed = task
    if file not in _tables:
        _tables[file] = Table(Path(file))
    return task, try_policy(_tables[file], name, seed)


class Kept:
    """Tries that are done, a line each."""

    def __init__(self, file: Path) -> None:
        """Reads what is there."""
        self._file = file
        lines = file.read_text().splitlines() if file.is_file() else []
        self.done = {tuple(line["of"]): line["try"] for line in map(json.loads, lines)}

    def add(self, key: tuple[str, str, int], found: dict[str, Any]) -> None:
        """At once."""
        self.done[key] = found
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a") as file:
            file.write(json.dumps({"of": key, "try": found}) + "\n")


def report(table: Table, tries: dict[str, list[dict[str, Any]]]) -> str:
    """A table's results, as Markdown."""
    machine = table.head["fingerprint"]["device_name"]
    judged = sum(row.acceptable for row in table.rows.values())
    failed = sum(not row.works for row in table.rows.values())
    whole = volume(table, list(table.rows.values())) or 1.0
    between = (
        "What is proposed and was not measured is replaced by the nearest row that the search has not had."
        if table.large
        else "What was not measured is answered by a model of the table, which is "
        f"{table.model.error:.1%} off the latency of a row that it has not seen (median)."
    )
    lines = [
        f"## {table.name}",
        "",
        f"{table.head['study']} on {machine}: {len(table.rows)} configurations measured, {judged} of them acceptable, "
        f"{failed} failed; a space of {table.space.size():.1e}. The reference takes "
        f"{table.answer(Configuration()).latency_ms:.0f} ms, the best acceptable {table.best_ms:.0f} ms. {between} "
        f"{table.head.get('note', '')}",
        "",
        "| search | n | within 5 % at 20 | at 40 | at 60 | trials until then | minutes until then | minutes, 60 trials "
        "| volume at 20 | at 40 | at 60 | failed | modelled |",
        "| --- " * 13 + "|",
    ]
    for name, found in tries.items():
        if not found:
            continue
        n = len(found)
        within = [f"{sum(1 for t in found if t['reached'] and t['reached'][0] <= mark)}/{n}" for mark in MARKS]
        trials, minutes = (_spread([t["reached"][i] if t["reached"] else math.inf for t in found], i) for i in (0, 1))
        volumes = [statistics.mean(t["volumes"].get(str(mark), t["last"]) for t in found) / whole for mark in MARKS]
        spent = sum(t["trials"] for t in found)
        cells = [name, str(n), *within, trials, minutes, _spread([t["minutes"] for t in found], 1)]
        cells += [f"{v:.0%}" for v in volumes]
        cells += [f"{sum(t[key] for t in found) / spent:.0%}" for key in ("failed", "modelled")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    """Median, and the middle half."""
    low, middle, high = (sorted(values)[round(q * (len(values) - 1))] for q in (0.25, 0.5, 0.75))
    words = [f"{value:.{digits}f}" if math.isfinite(value) else "never" for value in (middle, low, high)]
    return f"{words[0]} ({words[1]} to {words[2]})"


HEAD = """# How soon a search finds what there is

```
{command}
```

Each search is replayed on each table of measured configurations with {seeds} seeds (n where fewer are done), {trials}
trials each. "Within 5 %": in how many of them the fastest acceptable (near-lossless) configuration so far is within
5 % of the fastest acceptable one that was ever measured there. "Until then": median over the seeds, and the middle
half of them; a seed that never gets there counts as infinite. Minutes are what the trials would have taken one after
the other, compiling included. Volume: what the acceptable trials dominate (latency, memory, drift), over what all
measured rows dominate. What is proposed and was not measured is treated alike for every search: in a table of {large}
rows or more the search gets, and is told of, the row that differs from it in the fewest techniques and values, of those
that it has not had; a smaller one, which 60 trials would exhaust, is filled up by a model of itself, and "modelled" is
the share of such answers. Known impossible combinations, and repetitions of the same effect, cost nothing.

{policies}
"""


def main() -> None:
    """Every policy on every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0, help="20, say, for seeds that no change was chosen by")
    parser.add_argument("--policy", action="append", choices=POLICIES, help="by default all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--kept", type=Path, default=Path("build/search-tries.jsonl"), help="tries that are done already"
    )
    parser.add_argument("--again", action="append", default=[], choices=POLICIES, help="forget what is kept of these")
    parser.add_argument("--out", type=Path, help="Markdown; by default it is printed")
    options = parser.parse_args()
    names = options.policy or list(POLICIES)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    if "gp" in names and find_spec("scipy") is None:
        print("GPSampler needs scipy, which is not installed: what is kept of it is shown", file=sys.stderr)
    tables = {str(file): Table(file) for file in options.tables}
    kept = Kept(options.kept)
    tasks = [
        (file, name, seed)
        for name in names
        for seed in seeds
        for file, table in tables.items()
        if (name in options.again or (table.key, name, seed) not in kept.done) and (name != "gp" or find_spec("scipy"))
        if table.large or name not in AMONG_ROWS
    ]
    with multiprocessing.Pool(options.processes) as pool:
        for (file, name, seed), found in pool.imap_unordered(_task, tasks):
            kept.add((tables[file].key, name, seed), found)
            print(f"{tables[file].name} {name} {seed}: {found['reached']}", file=sys.stderr, flush=True)
    parts = [
        HEAD.format(
            command=f"python benchmarks/search.py {' '.join(map(str, options.tables))} --out {options.out}",
            seeds=options.seeds if options.first_seed == 0 else f"{options.seeds} other",
            large=LARGE,
            trials=TRIALS,
            policies="\n".join(f"- *{name}*: {MEANING[name]}." for name in names),
        )
    ]
    for table in tables.values():
        tries = {
            name: [kept.done[key] for seed in seeds if (key := (table.key, name, seed)) in kept.done] for name in names
        }
        parts.append(report(table, tries))
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
