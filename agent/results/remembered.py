"""What failed here before: techniques, alone or in pairs, that no study of the database tries again on this machine.

Nothing of it is stored. A configuration of one or two techniques that failed speaks for itself. Of a larger one, the
pair is to blame that never worked anywhere, if there is only one such. Where several could not be applied for the same
reason, it is what they have in common. What has worked since is forgotten.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from ...objectives.fingerprint import Fingerprint
from ...search_space import Configuration, PipelineFacts, Step, apply_source
from ...studies import EndedTrial, Outcome, Records, UserError

REMEMBERED = (Outcome.APPLY_ERROR, Outcome.COMPILE_ERROR, Outcome.CRASH)
"""Outcomes that are the configuration's own doing. Memory and time depend on limits and on other programs, and what is
unsupported is known beforehand, or will be.
"""


@dataclass(frozen=True)
class Failed:
    """One technique or two, with their parameters, and how a trial with them ended."""

    configuration: Configuration
    """Of these alone."""
    ended: EndedTrial

    @cached_property
    def steps(self) -> frozenset[Step]:
        """The techniques."""
        return frozenset(self.configuration.steps)

    def words(self) -> str:
        """In one sentence."""
        ended = self.ended
        return (
            f"{self.configuration} failed here before, in trial {ended.trial} of study {ended.study} "
            f"({ended.outcome}): {ended.reason}"
        )


class FailedBefore:
    """All that is remembered."""

    def __init__(self, trials: Iterable[tuple[Configuration, EndedTrial]]) -> None:
        """trials: of this machine, in order."""
        trials = list(trials)
        worked: set[frozenset[Step]] = set()
        for configuration, ended in trials:
            if ended.outcome is Outcome.COMPLETE:
                worked |= {*_parts(configuration, 1), *_parts(configuration, 2)}
        self.all: list[Failed] = []
        # The small ones first: they explain the larger ones.
        alike: dict[str, list[tuple[Configuration, EndedTrial]]] = {}
        for configuration, ended in sorted(trials, key=lambda pair: len(pair[0].steps)):
            if ended.outcome not in REMEMBERED or self.of(configuration) is not None:
                continue
            size = min(len(configuration.steps), 2)
            blamed = [part for part in _parts(configuration, size) if part not in worked]
            if len(blamed) == 1:
                self._blame(blamed[0], configuration, ended)
            elif ended.outcome is Outcome.APPLY_ERROR:
                alike.setdefault(ended.reason, []).append((configuration, ended))
        for group in alike.values():
            configuration, ended = group[0]
            common = frozenset(configuration.steps).intersection(*(one.steps for one, _ in group[1:]))
            if len(group) > 1 and 1 <= len(common) <= 2 and common not in worked:
                self._blame(common, configuration, ended)

    def _blame(self, part: frozenset[Step], configuration: Configuration, ended: EndedTrial) -> None:
        steps = tuple(step for step in configuration.steps if step in part)
        self.all.append(Failed(Configuration(steps), ended))

    def of(self, configuration: Configuration) -> Failed | None:
        """What a configuration holds that failed before; the first of it."""
        return next(iter(self.within(configuration)), None)

    def within(self, configuration: Configuration) -> list[Failed]:
        """All of it."""
        steps = set(configuration.steps)
        return [failed for failed in self.all if failed.steps <= steps]

    def with_step(self, step: Step) -> list[Failed]:
        """Where a technique, with these parameters, had a part."""
        return [failed for failed in self.all if step in failed.steps]


def failed_before(
    records: Records,
    fingerprint: Fingerprint,
    pipelines: Mapping[str, PipelineFacts] | None,
    *,
    only: str | None = None,
) -> FailedBefore:
    """What the studies of a database remember of this machine.

    pipelines: only of studies whose pipelines consist of the same classes in the same number formats; None: of all.
    only: of this study alone. Techniques that have changed since, or are not known here, are left out.
    """
    versions = {name: version for name, version in fingerprint.packages.items() if version is not None}
    alike = {name for name in records.study_names() if only in (None, name) and _alike(records, name, pipelines)}
    found = []
    for ended in records.ended_trials(fingerprint.key, (Outcome.COMPLETE, *REMEMBERED)):
        if ended.study not in alike:
            continue
        try:
            configuration = Configuration.from_dict(ended.configuration)
        except ValueError:
            continue
        if not configuration.steps:
            continue
        if ended.outcome is Outcome.COMPLETE or ended.apply_py == apply_source(configuration, versions):
            found.append((configuration, ended))
    return FailedBefore(found)


def _alike(records: Records, study: str, pipelines: Mapping[str, PipelineFacts] | None) -> bool:
    if pipelines is None:
        return True
    try:
        stored = records.study(study).pipelines
    except UserError:
        return False  # of another version
    return _kinds({name: PipelineFacts.from_dict(facts) for name, facts in stored.items()}) == _kinds(pipelines)


def _kinds(pipelines: Mapping[str, PipelineFacts]) -> set[tuple[str, str, str]]:
    return {
        (pipeline.class_name, module.class_name, module.dtype)
        for pipeline in pipelines.values()
        for module in pipeline.modules.values()
    }


def _parts(configuration: Configuration, size: int) -> list[frozenset[Step]]:
    return [frozenset(part) for part in itertools.combinations(configuration.steps, size)]
