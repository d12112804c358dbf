"""First proposals from a study of another machine: its front, with what is known of each of its techniques here."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ...search_space import Axis, Configuration, PipelineFacts, SearchSpace, Step, Target, impossible, technique
from ..results import Results, Trial

LESS_WORK = (Axis.CACHING, Axis.SAMPLING, Axis.ADAPTERS)
"""What leaves work out gains about the same share everywhere; what does the same work in another way depends on the
device."""


class Fate(StrEnum):
    """What becomes of a technique on another machine."""

    TRANSFERS = "transfers"
    AGAIN = "must be measured again"
    NOT_HERE = "not runnable here"


@dataclass(frozen=True)
class Knob:
    """A technique of the other study's trial, with its parameters."""

    step: Step
    fate: Fate
    why: str = ""

    def __str__(self) -> str:
        return f"{Configuration((self.step,))}: {self.fate}" + (f" ({self.why})" if self.why else "")


@dataclass(frozen=True)
class Proposal:
    """What is proposed here of a trial of the other study."""

    trial: Trial
    knobs: tuple[Knob, ...]

    @property
    def configuration(self) -> Configuration:
        """Without what cannot run here."""
        return Configuration(tuple(knob.step for knob in self.knobs if knob.fate is not Fate.NOT_HERE))

    def words(self) -> str:
        """A line for whoever launches."""
        knobs = "; ".join(map(str, self.knobs))
        return f"like trial {self.trial.number} of {self.trial.results.name}: {knobs}"


def proposals(
    other: Results, space: SearchSpace, target: Target, pipelines: Mapping[str, PipelineFacts], device_name: str
) -> list[Proposal]:
    """Of each trial of the other study's front but the reference, the best first; the same one is proposed once."""
    same_device = other.fingerprint.device_name == device_name
    best = other.best_or_none
    front = sorted(other.front, key=lambda trial: trial is not best)
    found: dict[Configuration, Proposal] = {}
    for trial in front:
        knobs = tuple(_knob(step, space, target, pipelines, same_device) for step in trial.configuration.steps)
        proposal = Proposal(trial, knobs)
        if proposal.configuration.steps:
            found.setdefault(proposal.configuration, proposal)
    return list(found.values())


def _knob(
    step: Step, space: SearchSpace, target: Target, pipelines: Mapping[str, PipelineFacts], same_device: bool
) -> Knob:
    alone = Configuration((step,))
    reason = impossible(alone, target, pipelines)
    if reason is None and alone not in space:
        reason = "it is not in the study's space"
    if reason is not None:
        return Knob(step, Fate.NOT_HERE, reason)
    transfers = same_device or technique(step.technique).axis in LESS_WORK
    return Knob(step, Fate.TRANSFERS if transfers else Fate.AGAIN)
