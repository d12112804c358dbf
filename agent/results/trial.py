"""One configuration in a study, as its runs tell of it. Nothing here is stored: it is worked out from the runs."""

import html
import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...objectives.figures import FIGURE, FIGURES
from ...objectives.measuring.energy import cost_per_1000_images
from ...objectives.noise_floor import relative_difference
from ...objectives.verdict import Verdict, configuration_drift
from ...search_space import Configuration
from ...studies import LinkedRun, Outcome, RunKind, RunRecord, UserError, without_secrets
from ..trial import COLD_START_FIGURES, PICTURES
from .cold_estimate import estimated_cold_start_s
from .confirmation import Confirmation, Speed, compare_trials
from .machine import in_doubt

if TYPE_CHECKING:
    from .doubts import Doubt
    from .results import Results

_JUDGED = (RunKind.TRIAL, RunKind.PICTURES, RunKind.REJUDGE)
"""Runs whose `quality` sums up every picture that was known when they were made: the newest says it all."""


class Trial:
    """One configuration: its newest timing, all its pictures, its cold starts, and what they are worth."""

    def __init__(self, results: "Results", number: int, runs: Sequence[LinkedRun]) -> None:
        """runs: all that the study uses for this trial, in order; one of the kind `trial` at least.

        Raises UserError when another version of paretune measured it.
        """
        self.results = results
        self.number = number
        self._runs = [one.run for one in runs]
        timed = [one for one in runs if one.run.kind == RunKind.TRIAL]
        complete = [one for one in timed if one.run.complete]
        newest = (complete or timed)[-1]
        self.link = newest.link
        """Of its timing, among the runs of the study."""
        self.timing: RunRecord = newest.run
        """It has the log's end, the seconds per phase and the apply.py that it ran."""
        self.folder = Path(self.timing.folder)
        """Where its log, pictures and latents are."""
        try:
            self.configuration = Configuration.from_dict(self.timing.configuration)
        except ValueError as error:
            raise UserError(
                f"trial {number} of {results.name} cannot be read, another version of paretune measured it ({error}): "
                "use that version, or launch the study again under another --name"
            ) from None

    @cached_property
    def _last_word(self) -> RunRecord:
        """The run that decides how the trial ended: more pictures, or calls, may have shown that it makes a broken one.

        The reference stays what everything is compared with, whatever its other seeds look like.
        """
        seen_in = (RunKind.PICTURES, RunKind.BLOCK)
        broken = [r for r in self._runs if r.kind in seen_in and r.outcome == Outcome.INVALID_OUTPUT]
        return broken[-1] if broken and self.configuration.steps else self.timing

    @cached_property
    def outcome(self) -> Outcome:
        """How it ended."""
        return Outcome(self._last_word.outcome)

    @property
    def reason(self) -> str:
        """Why it failed, in one sentence; empty when it is complete."""
        return without_secrets(self._last_word.reason)

    @property
    def log_tail(self) -> str:
        """The end of the log of the run that decided how it ended; empty when it is complete."""
        return without_secrets(self._last_word.log_tail)

    @property
    def complete(self) -> bool:
        """Whether it was measured to its end."""
        return self.outcome is Outcome.COMPLETE

    @property
    def is_reference(self) -> bool:
        """Whether it is the unoptimised pipeline."""
        return not self.configuration.steps

    @property
    def elsewhere(self) -> RunRecord | None:
        """The run of another study that measured it; None when this study did."""
        return None if self.timing.study == self.results.name else self.timing

    def runs(self, kind: RunKind) -> list[RunRecord]:
        """Its runs of one kind, in order."""
        return [run for run in self._runs if run.kind == kind]

    @property
    def pictures_folder(self) -> Path:
        """The folder in which `pictures` and `latents` lie: another study's, until this one has made more of them."""
        own = [run.folder for run in self.runs(RunKind.PICTURES) if run.folder]
        return Path(own[-1]) if own else self.folder

    def pictures(self) -> list[Path]:
        """Its judged pictures, in the order of the requests' names; all that were made where pictures mean nothing."""
        judged = {str(picture["file"]) for picture in self.quality.get("pictures", ())}
        made = sorted((self.pictures_folder / PICTURES).glob("*.png"))
        return [file for file in made if file.name in judged or not judged]

    # What was measured.

    @cached_property
    def measurements(self) -> dict[str, Any]:
        """Everything that its runs measured, as it was measured; empty unless it was complete once."""
        measured = dict(self.timing.measurements)
        judged = [run for run in self._runs if run.kind in _JUDGED and "quality" in run.measurements]
        if judged:
            quality = judged[-1].measurements["quality"]
            measured |= {"quality": quality, "drift": quality["drift"]}
        if self.is_reference and measured:
            # One first call may have waited for anything, and every other cold start is compared with this one.
            starts = [run.measurements["cold_start_s"] for run in self.results.floor_runs()]
            measured["cold_start_s"] = statistics.median([measured["cold_start_s"], *starts])
        return measured

    @property
    def quality(self) -> Mapping[str, Any]:
        """What was said of its pictures; empty when none was judged."""
        return dict(self.measurements.get("quality", {}))

    @property
    def verdict(self) -> Verdict:
        """The verdict on all of its pictures."""
        return Verdict(self.quality["verdict"]) if self.quality else Verdict.NOT_ASSESSED

    def verdict_words(self) -> str:
        """The verdict; never a judgement of pictures that mean nothing."""
        return str(self.verdict) if self.results.quality_assessed else "not assessed (random weights)"

    @property
    def judged_pictures(self) -> list[Mapping[str, Any]]:
        """What was said of each picture, also of those that are no evidence because the reference's shows nothing."""
        return [*self.quality.get("pictures", ()), *self.no_evidence]

    @property
    def no_evidence(self) -> list[Mapping[str, Any]]:
        """Of these the latter; `no_evidence` says why."""
        return list(self.quality.get("no_evidence", ()))

    @property
    def picture_count(self) -> int:
        """How many of its pictures were judged."""
        return len(self.quality.get("pictures", ()))

    @property
    def ended_early_by(self) -> int | None:
        """The trial that was so much better that timing this one was cut short; None when it was not."""
        return self.measurements.get("dominated_by")

    @cached_property
    def cold_starts(self) -> dict[str | None, Mapping[str, float]]:
        """{the way in which compiled code was kept and loaded, None where it compiled whatever it had to: medians of
        real cold processes, in s: each phase, `cold_start_s` in all, and how many (`n`)}.
        """
        by_way: dict[str | None, list[Mapping[str, Any]]] = {}
        for run in self.runs(RunKind.COLD_START):
            if run.complete:
                by_way.setdefault(run.measurements.get("way"), []).append(run.measurements)
        return {
            way: {name: statistics.median(one[name] for one in found) for name in COLD_START_FIGURES}
            | {"n": len(found)}
            for way, found in by_way.items()
        }

    @property
    def cold_start_way(self) -> str | None:
        """The way in which the processes of `cold_start_measured` loaded compiled code."""
        return max(self.cold_starts, key=lambda way: way is not None, default=None)

    @property
    def cold_start_measured(self) -> Mapping[str, float] | None:
        """Its cold starts with compiled code, where there are some, else without; None where it was not started so."""
        return self.cold_starts.get(self.cold_start_way)

    # The one estimate of each figure, which every text, table and plot shows.

    def figure(self, name: str) -> float:
        """The estimate of a figure, for a complete trial.

        latency_ms: on one scale for all trials of the study (see `Results.latency_ms`). drift: of the pictures that
        all trials have, so that trials can be compared. cold_start_s: see cold_estimate.py.
        """
        if name == "latency_ms":
            return self.results.latency_ms(self)
        if name == "drift":
            return self.drift
        if name == "cold_start_s":
            return estimated_cold_start_s(self)
        return float(self.measurements[name])

    def known_figure(self, name: str) -> float | None:
        """The same; None for what is not known of it."""
        return self.figure(name) if self.complete and self.measurements.get(name) is not None else None

    def text(self, name: str) -> str:
        """A figure as people read it: "412 ms"."""
        return FIGURE[name].text(self.figure(name))

    @cached_property
    def compared_pictures(self) -> list[Mapping[str, Any]]:
        """What was said of the pictures that every trial has. What was ended early has fewer; then of those it has."""
        judged = self.quality.get("pictures", ())
        return [one for one in judged if one["file"] in self.results.shared_pictures] or list(judged)

    @cached_property
    def drift(self) -> float:
        """Of the pictures by which trials are compared."""
        compared = self.compared_pictures
        if not compared:
            return float(self.measurements["drift"])
        return configuration_drift([float(one["drift"]) for one in compared], any(one["broken"] for one in compared))

    @cached_property
    def confirmation(self) -> Confirmation | None:
        """What the confirming blocks found of it; None when it was not in them."""
        compiled, best = self.results.torch_compile, self.results.torch_compile_best
        baselines = (self.results.reference, compiled, None if best is compiled else best)
        found = [None if one is None else self.results.compared(one, self) for one in baselines]
        return None if self.is_reference or not any(found) else Confirmation(*found)

    @cached_property
    def faster_at(self) -> dict[str, bool]:
        """{place: whether its blocks there showed it to be faster than the reference}, of the places that made some."""
        numbers = self.results.reference.number, self.number
        found = {place: compare_trials(made, *numbers) for place, made in self.results.blocks_by_place.items()}
        return {place: one.decision == "faster" for place, one in found.items() if one is not None}

    @property
    def confirmed(self) -> bool:
        """Whether blocks showed it to be faster than the reference and no slower than torch.compile at its best."""
        return self.confirmation is not None and self.confirmation.confirmed

    @property
    def gpu_busy_share(self) -> float | None:
        """In how much of its latency, by itself, the GPU was busy; None where that was not measured.

        The rest is the host, which launches kernels or waits.
        """
        busy = self.measurements.get("gpu_busy", ())
        shapes = self.measurements.get("latency", ())
        if not busy or len(busy) != len(shapes):
            return None
        busy_ms = sum(shape["weight"] * one["busy_ms"] for shape, one in zip(shapes, busy, strict=True))
        return min(1.0, float(busy_ms / sum(shape["weight"] * shape["median_ms"] for shape in shapes)))

    @property
    def exportable(self) -> bool:
        """Whether `export` writes it unasked: nothing is known of a gain over a reference that was contradicted."""
        return self.confirmed or self.is_reference or not self.results.reference_contradicted

    @property
    def speed(self) -> Speed:
        """Against the reference: as confirmed in blocks where it was, which are the better measurement."""
        reference = self.results.reference
        if self is reference:
            return Speed(1.0)
        found = None if self.confirmation is None else self.confirmation.reference
        if found is None:
            if self.results.unsteady or self.results.reference_contradicted:
                return Speed(None, unconfirmed=True)
            times = reference.figure("latency_ms") / self.figure("latency_ms")
            return Speed(times, self.ties_with("latency_ms", reference), unconfirmed=True)
        return Speed(found.times, found.decision == "tie", found.interval, found.blocks)

    def ties_with(self, name: str, other: "Trial") -> bool:
        """Whether the two cannot be told apart in a figure: they differ by no more than the noise floor.

        Latencies that were measured in the same blocks are told apart by these, which see smaller differences.
        """
        if name == "latency_ms" and (found := self.results.compared(other, self)) is not None:
            return found.decision == "tie"
        floor = self.results.floor
        noise = 0.0 if floor is None else floor.of_figure(name)
        difference = relative_difference(self.figure(name), other.figure(name))
        return difference <= max(noise, FIGURE[name].least_difference)

    def surely_less(self, name: str, other: "Trial") -> bool:
        """Whether it has less of a figure than another, beyond a tie."""
        if name == "latency_ms" and (found := self.results.compared(other, self)) is not None:
            return found.decision == "faster"
        return not self.ties_with(name, other) and self.figure(name) < other.figure(name)

    def ties(self, name: str = "latency_ms") -> list["Trial"]:
        """The other acceptable trials that cannot be told apart from it in a figure."""
        return [t for t in self.results.complete if t is not self and t.acceptable and t.ties_with(name, self)]

    # What it is worth.

    @cached_property
    def constraint_values(self) -> dict[str, float]:
        """At most 0 for each limit that a complete trial keeps, always in the same order: what the sampler is told.

        The verdict's is on all of its pictures.
        """
        limits, values = self.results.study.limits, {}
        if limits.verdict is not None and self.results.quality_assessed:
            values["verdict"] = float(self.measurements["drift"]) - Verdict(limits.verdict).drift_limit
        for figure in FIGURES:
            if (limit := self.results.study.bound(figure.name)) is not None:
                # What was not measured (a stall where adapters never change, an older run) breaks no limit.
                value = self.known_figure(figure.name) or 0.0
                values[figure.name] = value / limit - 1 if limit else value
        return values

    @cached_property
    def acceptable(self) -> bool:
        """Whether it is complete and keeps the study's limits."""
        return self.complete and all(value <= 0 for value in self.constraint_values.values())

    def broken_limits(self) -> list[str]:
        """The study's limits that it breaks, each in words."""
        limits = self.results.study.limits
        return [
            f"pictures are {self.verdict}, the limit is {limits.verdict}"
            if name == "verdict"
            else f"{FIGURE[name].label} is over {FIGURE[name].text(self.results.study.bound(name) or 0)}"
            for name, value in self.constraint_values.items()
            if value > 0
        ]

    @property
    def in_doubt(self) -> bool:
        """Whether a canary beside its timing found the machine to be another one than for the reference.

        Never the reference, which the processes of the noise floor vouch for, nor what another study has measured and
        vouched for: this study's canaries know nothing of that time.
        """
        own = not self.is_reference and self.elsewhere is None
        return own and in_doubt(self.results.canaries, self.link, self.timing.worker)

    def doubts(self) -> list["Doubt"]:
        """What a reader has to know before trusting it; empty when nothing speaks against it."""
        from .doubts import trial_doubts

        return trial_doubts(self)

    @property
    def largest_repeat_difference(self) -> float:
        """How far any value of a picture was from what the same request had given before, of 1."""
        timed = [self.timing, *self.runs(RunKind.BLOCK)]
        return max(float(run.measurements.get("repeat_max_difference", 0.0)) for run in timed)

    def within_reordering_floor(self) -> bool | None:
        """Whether its pictures drift no further than those of the same arithmetic reordered; None if unknown."""
        floor = self.results.reordering_floor
        if floor is None or floor["drift"] is None or self.measurements.get("drift") is None:
            return None
        return float(self.measurements["drift"]) <= float(floor["drift"])

    def __repr__(self) -> str:
        return f"Trial({self.number}, {self.configuration})"

    def _repr_html_(self) -> str:
        """In a notebook: what it is, and what is known of it."""
        known = [(one.label, self.known_figure(one.name), one) for one in FIGURES]
        lines = [f"{label} {one.text(value)}" for label, value, one in known if value is not None]
        lines = [*lines, f"pictures {self.verdict_words()}"] if self.complete else [f"{self.outcome}: {self.reason}"]
        words = html.escape(f"trial {self.number}: {self.configuration}")
        return f"<p><b>{words}</b><br>{html.escape('; '.join(lines))}</p>"

    def cost_per_1000_images(self) -> float | None:
        """In the currency of the study's price; None without a price."""
        price = self.results.study.price_per_gpu_hour
        if price is None:
            return None
        # Per image, on the scale of the latency that is shown.
        scale = self.figure("latency_ms") / float(self.measurements["latency_ms"])
        return cost_per_1000_images(self.measurements["latency_per_image_ms"] * scale / 1000, price)


def numbers(trials: Iterable[Trial]) -> str:
    """ "trial 3", "trials 1, 2"."""
    found = [str(trial.number) for trial in trials]
    return f"trial{'s' if len(found) > 1 else ''} {', '.join(found)}"
