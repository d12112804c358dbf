"""docs/techniques.md, from the results that techniques.py has written."""

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLUMNS = {
    "sdxl-cuda": "SDXL with random weights",
    "quickstart-cuda": "the quickstart model",
    "quickstart-cpu": "the quickstart model",
}
"""By the name of the results' file, in the order of the page."""
WORKS, REFUSED, FAILS, MISSING = "works", "refused", "fails", "not measured"
INTRODUCTION = """# Every technique alone

What each technique does by itself, in every variant that `paretune techniques --json` lists: whether it works on these
pipelines and machines, and where not, why; how long a request takes as a share of what the unchanged pipeline needs;
peak memory; how long the first call takes, compiling included; and what becomes of the pictures. Much of this is of
little use alone and strong with others: paretune's search and its recipes combine them.

`benchmarks/techniques.py` made this page. Each variant ran in a process of its own. Several shared the machine, but
pipelines were called in turns, except for the first call of what compiles; on a CPU they ran one after the other. A
ratio is the median of a variant's calls over the median of the unchanged pipeline's, just before and just after, in a
process of its own; in brackets, of the fastest and the slowest call; where a call takes longer than 4 s, of that call.
It is in bold where it lies outside of what the unchanged pipeline's own calls show of each other in the same run; what
is not may be noise. The same request is made again and again. "Of the GPU's work" is the same ratio of the time in
which the GPU was busy, in one more call: the host, which launches the kernels, has no part in it. First calls of what
compiles are those of a busy machine with empty caches. Memory is what torch reserves on a GPU, and the resident set on
a CPU.
"""


@dataclass(frozen=True)
class Measured:
    """One file of results: a workload on a machine."""

    title: str
    rows: Mapping[str, Mapping[str, Any]]
    """The newest row of each variant, by its words."""
    references: Sequence[Mapping[str, Any]]
    unchanged: Mapping[str, Any]
    runs: Sequence[Mapping[str, Any]]
    """How each was made: machine, versions, steps, calls, processes."""

    @classmethod
    def of(cls, title: str, lines: Sequence[Mapping[str, Any]]) -> "Measured":
        """From the lines of a file."""
        by_kind: dict[str, list[Mapping[str, Any]]] = {}
        for line in lines:
            by_kind.setdefault(line["kind"], []).append(line)
        return cls(
            title=f"{title}, {by_kind['run'][-1]['fingerprint']['device_name']}",
            rows={row["variant"]: row for row in by_kind.get("variant", [])},
            references=by_kind.get("reference", []),
            unchanged=by_kind["unchanged"][-1],
            runs=by_kind["run"],
        )

    def ratios(self, row: Mapping[str, Any]) -> list[float] | None:
        """Of each call of a variant to the unchanged pipeline's, from the lowest; None without such."""
        same = [one for one in self.references if one["run"] == row["run"]]
        before = [one for one in same if one["at"][1] <= row["at"][0]][-1:]
        after = [one for one in same if one["at"][0] >= row["at"][1]][:1]
        known = [ms for one in before + after for ms in one["milliseconds"]]
        return sorted(ms / statistics.median(known) for ms in row["milliseconds"]) if known else None

    def unchanged_ms(self, run: float) -> list[float]:
        """Every call of the unchanged pipeline in a run."""
        return [ms for one in self.references if one["run"] == run for ms in one["milliseconds"]]

    def noise(self, row: Mapping[str, Any]) -> tuple[float, float]:
        """The fastest and the slowest call of the unchanged pipeline in a variant's run, over the median one."""
        known = self.unchanged_ms(row["run"])
        return min(known) / statistics.median(known), max(known) / statistics.median(known)

    def state(self, variant: str) -> str:
        """Whether it works here."""
        outcome = self.rows.get(variant, {}).get("outcome")
        return {"complete": WORKS, "refused": REFUSED, None: MISSING, "unfinished": MISSING}.get(outcome, FAILS)

    def cell(self, technique: str, variant: str) -> str:
        """What there is to say of a variant here."""
        row = self.rows.get(variant)
        if row is None:
            return MISSING
        if row["outcome"] != "complete":
            reason = str(row["reason"]).removeprefix(f"{technique}: ").replace("|", "\\|")
            return f"{self.state(variant)}: {reason}"
        words = []
        ratios = self.ratios(row)
        if ratios is not None:
            low, high = self.noise(row)
            ratio = statistics.median(ratios)
            number = f"{ratio:.2f}" if low <= ratio <= high else f"**{ratio:.2f}**"
            words.append(f"{number} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
        if row.get("busy_ms") and self.unchanged.get("busy_ms"):
            words.append(f"of the GPU's work {row['busy_ms'] / self.unchanged['busy_ms']:.2f}")
        words += [f"{row['peak_gib']:.2f} GiB", f"first call {row['applied_s'] + row['first_call_s']:.1f} s"]
        if "verdict" in row:
            words.append(row["verdict"] if row["drift"] is None else f"{row['verdict']} ({row['drift']:.2f})")
        return ", ".join(words)

    def about(self) -> str:
        """A line on how it was measured, each run by its own machine."""
        states = [self.state(variant) for variant in self.rows]
        counts = ", ".join(f"{states.count(state)} {state}" for state in (WORKS, REFUSED, FAILS, MISSING))
        newest = self.runs[-1]
        drift = (
            f"Pictures of {max((row.get('pictures', 0) for row in self.rows.values()), default=0)} requests are judged "
            "against the unchanged pipeline's: the verdict, and the drift in brackets."
            if newest["assessed"]
            else "Pictures are not judged: weights are random."
        )
        machines = list(dict.fromkeys(_machine(run) for run in self.runs))
        runs = [self.run_words(run) for run in self.runs]
        if len(runs) > 1:
            runs = [f"{_ordinal(number)} run, {words}" for number, words in enumerate(runs)]
        if len(machines) > 1:
            places = [machines.index(_machine(run)) + 1 for run in self.runs]
            runs = [f"{words}, machine {place}" for words, place in zip(runs, places, strict=True)]
            machines = [f"machine {number}: {one}" for number, one in enumerate(machines, 1)]
        notes = " ".join(run["note"] for run in self.runs if run.get("note"))
        return (
            f"**{self.title}**: {newest['side_px']} x {newest['side_px']}, {newest['steps']} steps, "
            f"{newest['calls']} timed calls each; the unchanged pipeline takes {self.unchanged['peak_gib']:.2f} GiB; "
            f"{'; '.join(runs)}. Variants: {counts}. {notes and f'{notes} '}{drift} {'; '.join(machines)}."
        )

    def run_words(self, run: Mapping[str, Any]) -> str:
        """How many processes, and what the unchanged pipeline took meanwhile."""
        known = self.unchanged_ms(run["run"])
        words = f"{run['workers']} processes on {run['cores']} cores"
        if run["workers"] == 1:
            words = f"one variant at a time on {run['cores']} cores"
        if not known:
            return words
        middle, calls = statistics.median(known), f"{min(known):.0f} to {max(known):.0f} in {len(known)} calls"
        return f"{words}: unchanged {middle:.0f} ms a call ({calls})"


def _ordinal(number: int) -> str:
    words = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
    return words[number] if number < len(words) else f"{number + 1}th"


def _machine(run: Mapping[str, Any]) -> str:
    fingerprint = run["fingerprint"]
    driver = f", driver {fingerprint['driver']}, CUDA {fingerprint['cuda']}" if fingerprint["driver"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in fingerprint["packages"].items() if version)
    return f"{fingerprint['cpu_model']}{driver}, Python {fingerprint['python']}, {versions}"


def write_page(folder: Path, page: Path) -> None:
    """From every file of results in `folder` whose name is one of COLUMNS."""
    from techniques import read_rows

    found = []
    for name, title in COLUMNS.items():
        rows = read_rows(folder / f"{name}.jsonl")
        if {"run", "unchanged"} <= {row["kind"] for row in rows}:
            found.append(Measured.of(title, rows))
    page.write_text("\n".join(page_lines(found)) + "\n")


def page_lines(measured: Sequence[Measured]) -> list[str]:
    """As Markdown: a table for each axis."""
    from paretune.search_space import Axis, known_techniques

    lines = [INTRODUCTION]
    for one in measured:
        lines += [one.about(), ""]
    for axis in Axis:
        lines += [f"## {axis.capitalize()}", "", f"| variant | {' | '.join(one.title for one in measured)} |"]
        lines.append("| --- |" + " --- |" * len(measured))
        for known in known_techniques():
            if known.axis is axis:
                lines += table_rows(known.name, measured)
        lines.append("")
    return lines[:-1]


def table_rows(technique: str, measured: Sequence[Measured]) -> Iterator[str]:
    """A row for each variant of a technique; neighbours of which everywhere the same is said share one."""
    from paretune.search_space import Configuration, Step, variants
    from paretune.search_space import technique as technique_of

    known = technique_of(technique)
    words = [str(Configuration((Step(technique, parameters),))) for parameters in variants(known)]
    cells = [(variant, tuple(one.cell(technique, variant) for one in measured)) for variant in words]
    for said, group in itertools.groupby(cells, key=lambda pair: pair[1]):
        names = [variant for variant, _ in group]
        if len(names) == len(words) and len(names) > 1:
            name = f"`{technique}`, all {len(names)} variants"
        else:
            name = ", ".join(f"`{variant}`" for variant in names)
        yield f"| {name} | {' | '.join(said)} |"
