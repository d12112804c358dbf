"""Trials on a real GPU: memory errors, kills and hangs there cost their own trial, and the GPU is empty afterwards."""

from pathlib import Path

import pytest
from paretune.agent.bundle import export, verify
from paretune.agent.results import Results
from paretune.agent.search import launch
from paretune.objectives.measuring.memory import device_used_gib
from paretune.search_space import Configuration
from paretune.studies import Outcome, read_study
from support.launching import tiny_study, write_study

pytestmark = pytest.mark.gpu

BAD = {
    "devour_gpu": Outcome.OOM,
    "hang_gpu": Outcome.TIMEOUT,
    "segfault_gpu": Outcome.CRASH,
    "device_assert": Outcome.APPLY_ERROR,
}


@pytest.fixture(scope="module")
def used_before_gib() -> float:
    """By this process and by other people's, before the trials."""
    used_gib = device_used_gib("cuda")
    assert used_gib is not None
    return used_gib


@pytest.fixture(scope="module")
def survived(used_before_gib: float, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("gpu")
    presets = [[{name: {}}] for name in BAD] + [[{"deepcache": {"interval": 2, "branch": 0}}]]
    space = {
        "files": [str(Path(__file__).parents[2] / "support" / "bad_gpu_techniques.py")],
        "techniques": {**{name: {} for name in BAD}, "deepcache": {}},
        "presets": presets,
    }
    content = tiny_study(tiny_model, device="cuda", space=space, deadlines_s={"apply": 30})
    study = read_study(str(write_study(folder / "gpu.yaml", content)))
    return launch(study, storage=f"sqlite:///{folder}/paretune.db", trials=len(presets) + 1)


@pytest.mark.parametrize("name", BAD)
def test_each_ends_as_what_it_is(survived: Results, name: str) -> None:
    trial = survived.of(Configuration.of({name: {}}))
    assert trial is not None
    assert (trial.outcome, trial.reason) == (BAD[name], trial.reason)
    assert trial.reason


def test_later_trials_are_unaffected_and_nothing_stays_on_the_gpu(survived: Results, used_before_gib: float) -> None:
    last = survived.of(Configuration.of({"deepcache": {"interval": 2, "branch": 0}}))
    assert last is not None
    assert last.complete, last.reason
    assert last.measurements["memory"]["source"].startswith("nvml")
    assert last.gpu_busy_share is not None
    assert 0 < last.gpu_busy_share <= 1
    used_gib = device_used_gib("cuda")
    assert used_gib is not None
    assert used_gib - used_before_gib < 2, "what the trials took is given back"


def test_the_bundle_passes_in_a_fresh_process(survived: Results, tmp_path: Path) -> None:
    bundle = export(survived, survived.best(), tmp_path / "bundle")
    failed = [check for check in verify(bundle).checks if not check.passed and check.name != "latency_ms"]
    assert failed == []
