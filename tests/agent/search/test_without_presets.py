"""A study without presets finds what one with presets finds: launches replayed on a table of real measurements."""

from pathlib import Path

import pytest
from paretune.agent.results import Results
from paretune.agent.trial import Job, TrialResult
from paretune.objectives.verdict import Verdict
from paretune.search_space import Configuration
from paretune.studies import Outcome, read_study
from search import NEAR
from search_tables import Table
from support.replaying import World, world_in

CPU = Path(__file__).parents[3] / "benchmarks" / "tables" / "quickstart-cpu.jsonl.gz"
TRIALS = 16


def test_the_study_of_sdxl_lists_no_presets() -> None:
    assert read_study("sdxl").presets() == []


@pytest.mark.slow
def test_without_presets_a_study_finds_what_it_finds_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(CPU)
    found = {
        with_presets: _launched(world_in(tmp_path, monkeypatch), table, with_presets) for with_presets in (True, False)
    }
    best_ms = {key: results.best().figure("latency_ms") for key, results in found.items()}
    assert best_ms[False] <= NEAR * best_ms[True]
    assert best_ms[False] < 0.9 * found[False].reference.figure("latency_ms")


def _launched(world: World, table: Table, with_presets: bool) -> Results:
    """The quickstart's search, whose processes find what the table has."""

    def before(job: Job, kind: str) -> TrialResult | None:
        configuration = Configuration.from_dict(job.configuration)
        answer = table.answer(configuration)
        if not answer.works:
            return TrialResult(outcome=Outcome.APPLY_ERROR, reason="it failed when the table was recorded")
        drift = min(answer.drift or 0.0, Verdict.DIFFERENT.drift_limit)  # worse than that is a broken picture
        world.latency_ms[str(configuration)] = answer.latency_ms
        world.memory_gib[str(configuration)] = answer.memory_gib
        world.drift[str(configuration)] = lambda count: drift
        return None

    world.before = before
    quickstart = read_study("quickstart").space
    presets = [*quickstart.presets] if with_presets else []
    study = world.study(
        f"presets-{with_presets}",
        [],
        space={"techniques": quickstart.techniques, "presets": presets, "recipes": True},
        sampler={"guided": True},
        limits={"verdict": "near-lossless"},
        budget={"trials": TRIALS},
    )
    return world.launch(study, fresh=True)
