"""Techniques that go wrong in every way there is: each costs its own trial and nothing else."""

import os
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from paretune.agent.results import Results, Trial
from paretune.agent.search import launch
from paretune.agent.trial import LOG
from paretune.agent.trial.log import MOST_BYTES
from paretune.search_space import Configuration
from paretune.studies import Outcome, Records, read_study
from support.launching import BAD_TECHNIQUES, processes, tiny_study, wait_until, write_study

MARK = f"failures-{os.getpid()}"
PRESETS: dict[str, tuple[dict[str, dict[str, object]], Outcome, str]] = {
    "hangs": ({"hang": {"where": "python"}}, Outcome.TIMEOUT, "apply took longer than its deadline of 6 s"),
    "hangs in C, signals blocked": (
        {"hang": {"where": "c_with_signals_blocked"}},
        Outcome.TIMEOUT,
        "apply took longer than its deadline of 6 s",
    ),
    "allocates without end": ({"devour": {}}, Outcome.OOM, "GiB of main memory, over its limit of 1.4 GiB"),
    "segmentation fault": ({"segfault": {}}, Outcome.CRASH, "apply: killed by SIGSEGV"),
    "ends its process": ({"leave": {}}, Outcome.CRASH, "apply: the process ended with exit code 7"),
    "raises": ({"fail": {}}, Outcome.APPLY_ERROR, "apply: ValueError: this U-Net is [/of] the wrong [red]shape"),
    "changes nothing": ({"nothing": {}}, Outcome.APPLY_ERROR, "nothing changed nothing: no module is any different"),
    "NaN pictures": ({"broken_pictures": {"content": "nan"}}, Outcome.INVALID_OUTPUT, "first_call: request cat gave "),
    "black pictures": ({"broken_pictures": {"content": "black"}}, Outcome.INVALID_OUTPUT, "cat-0.png: "),
    "out of GPU memory": ({"out_of_memory": {}}, Outcome.OOM, "apply: out of memory: 20.00 GiB were asked for"),
    "does not compile": ({"uncompilable": {}}, Outcome.COMPILE_ERROR, "first_call: "),
    "no kernel": ({"no_kernel": {}}, Outcome.UNSUPPORTED, "apply: NotImplementedError: "),
    "leaves processes behind": ({"grandchildren": {}}, Outcome.COMPLETE, ""),
    "host fails once": ({"flaky_host": {}}, Outcome.COMPLETE, ""),
    "breaks its own result": (
        {"break_result": {}},
        Outcome.CRASH,
        "apply: the process ended with exit code 0 and left a result.json that cannot be read (Expecting property name",
    ),
    "prints without end": ({"print_without_end": {}}, Outcome.CRASH, "apply: the process ended with exit code 3"),
    "well-behaved, at the end": ({"vae_slicing": {}}, Outcome.COMPLETE, ""),
}


@dataclass
class Survived:
    """The study after all of them."""

    results: Results
    storage: str

    def trial(self, case: str) -> Trial:
        found = self.results.of(Configuration.of(PRESETS[case][0]))
        assert found is not None
        return found


@pytest.fixture(scope="module")
def survived(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Survived:
    folder = tmp_path_factory.mktemp("failures")
    space = {
        "files": [BAD_TECHNIQUES],
        "techniques": {name: {} for techniques, _, _ in PRESETS.values() for name in techniques},
        "presets": [[techniques] for techniques, _, _ in PRESETS.values()],
    }
    content = tiny_study(tiny_model, name="bad", space=space, host_memory_gib=1.4, deadlines_s={"apply": 6})
    study = read_study(str(write_study(folder / "bad.yaml", content)))
    storage = f"sqlite:///{folder}/paretune.db"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PARETUNE_TEST_MARK", MARK)
        environment.setenv("PARETUNE_TEST_FOLDER", str(folder))
        results = launch(study, storage=storage, trials=len(PRESETS) + 1)
    return Survived(results, storage)


def test_every_one_was_tried_in_turn_and_the_study_went_on(survived: Survived) -> None:
    tried = [trial.configuration for trial in survived.results.trials]
    assert tried == [Configuration(), *(Configuration.of(techniques) for techniques, _, _ in PRESETS.values())]


@pytest.mark.parametrize("case", PRESETS)
def test_outcome_and_reason(survived: Survived, case: str) -> None:
    trial = survived.trial(case)
    _, outcome, reason = PRESETS[case]
    assert (trial.outcome, trial.reason) == (outcome, trial.reason)
    assert reason in trial.reason
    assert "\n" not in trial.reason
    assert bool(trial.reason) is not trial.complete


def test_pictures_that_are_broken_are_kept_to_be_looked_at(survived: Survived) -> None:
    assert len(survived.trial("black pictures").pictures()) == 3


def test_later_trials_are_unaffected(survived: Survived) -> None:
    reference, last = survived.results.reference, survived.trial("well-behaved, at the end")
    assert last.figure("drift") <= 1
    assert reference.measurements["quality"]["n"] == last.measurements["quality"]["n"]


def test_what_a_process_prints_does_not_fill_the_disk(survived: Survived) -> None:
    """What a trial printed is stored by its end."""
    trial = survived.trial("prints without end")
    log = Path(trial.timing.folder) / LOG
    assert log.stat().st_size < MOST_BYTES
    assert "left out here" in log.read_text()
    assert trial.timing.log_tail.endswith("spam ")


def test_no_process_is_left_over(survived: Survived) -> None:
    wait_until(lambda: not processes(MARK), 10, f"still there: {processes(MARK)}")


def test_what_the_host_did_is_tried_again(survived: Survived) -> None:
    assert survived.trial("host fails once").outcome is Outcome.COMPLETE
    assert (Path(survived.results.record.files).parent.parent / "flaky").exists()


def test_optuna_learns_from_every_failure(survived: Survived) -> None:
    told = {t.number: t for t in optuna.load_study(study_name="bad", storage=survived.storage).get_trials()}
    for trial in survived.results.failures:
        assert told[trial.number].state is TrialState.PRUNED
        assert told[trial.number].constraints["runs"] > 0
    assert Records(survived.storage).studies()[0].name == "bad"
