"""A launch that is killed, interrupted and continued, as processes of their own."""

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from paretune.agent.results import Results
from paretune.studies import Records, RunKind
from support.append_only import forbid_changes
from support.launched import Cli
from support.launching import BAD_TECHNIQUES, command, processes, tiny_study, wait_until, write_study

MARK = f"interrupted-{os.getpid()}"
TRIALS = 12


@dataclass
class Folder:
    path: Path
    storage: str

    def start(self) -> subprocess.Popen[bytes]:
        marks = {"PARETUNE_TEST_MARK": MARK, "PARETUNE_TEST_FOLDER": str(self.path)}
        arguments = ["launch", "tiny.yaml", "--trials", str(TRIALS), "--name", "a", "--storage", self.storage]
        with (self.path / "output").open("wb") as output:
            return subprocess.Popen(
                command(*arguments), cwd=self.path, env={**os.environ, **marks}, stdout=output, stderr=output
            )

    def output(self) -> str:
        return (self.path / "output").read_text()

    def measured(self) -> int:
        return len(self.configurations())

    def configurations(self) -> list[str]:
        runs = [one.run for one in Records(self.storage).runs("a")]
        return [run.configuration_key for run in runs if run.kind == RunKind.TRIAL]


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    path = tmp_path_factory.mktemp("interrupted")
    space = {
        "files": [BAD_TECHNIQUES],
        "techniques": {"channels_last": {}, "deepcache": {}, "compile_and_wait": {}},
        "presets": [[{"channels_last": {}}], [{"deepcache": {"interval": 2, "branch": 1}}], [{"compile_and_wait": {}}]],
    }
    request = {"name": "cat", "prompt": "a cat", "width_px": 64, "height_px": 64, "steps": 5}
    content = tiny_study(tiny_model, space=space)
    write_study(path / "tiny.yaml", {**content, "workload": {**content["workload"], "requests": [request]}})
    forbid_changes(path / "paretune.db")  # killed, interrupted, continued: runs are only ever added
    return Folder(path, f"sqlite:///{path}/paretune.db")


@pytest.mark.slow
def test_killed_interrupted_and_continued_it_loses_nothing_and_measures_nothing_twice(folder: Folder, cli: Cli) -> None:
    # Killed in the middle of a trial, with worker processes of the compiler alive.
    launcher = folder.start()
    wait_until((folder.path / "compiling").exists, 120, f"no trial compiled: {folder.output()}")
    assert len(processes(MARK)) >= 3, "the launcher, the server and the trial at least"
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    wait_until(lambda: not processes(MARK), 15, f"left over: {processes(MARK)}")
    killed_at = folder.configurations()
    assert len(killed_at) == 3

    # Ctrl-C in the middle of the next launch; meanwhile no second one can start.
    launcher = folder.start()
    wait_until(lambda: folder.measured() >= 5, 120, f"it does not continue: {folder.output()}")
    second = cli("launch", str(folder.path / "tiny.yaml"), "--name", "a", "--storage", folder.storage)
    assert second.sentence() == f"study a is being launched by process {launcher.pid} already"
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(timeout=30) == 130, folder.output()
    assert "Nothing that was measured is lost" in folder.output()
    assert "Traceback" not in folder.output()
    wait_until(lambda: not processes(MARK), 15, f"left over: {processes(MARK)}")
    interrupted_at = folder.configurations()
    assert interrupted_at[: len(killed_at)] == killed_at
    assert len(interrupted_at) < TRIALS

    launcher = folder.start()
    assert launcher.wait(timeout=180) == 0, folder.output()
    finished = folder.configurations()
    assert finished[: len(interrupted_at)] == interrupted_at
    assert len(finished) == len(set(finished)) == TRIALS
    assert not processes(MARK)
    results = Results(Records(folder.storage), "a")
    assert len(results.complete) == TRIALS
    assert [trial.configuration.get("compile_and_wait") for trial in results.trials].count({}) >= 1
    assert not list(Path(results.record.files).glob("*/compiled"))
