"""The dashboard over a study that is replayed into a database, served by the command itself and seen by a browser."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from paretune.agent._results import TORCH_COMPILE
from paretune.agent.dashboard import OWN_NOTES
from paretune.objectives.fingerprint import PACKAGES
from paretune.search_space import Configuration
from paretune.studies import MeasurementRecord, Outcome, Records, StudyRecord, parse_study
from PIL import Image
from support.browser import CHROMIUM, Browser

pytest.importorskip("optuna_dashboard", reason="the dashboard extra is not installed")

TRIALS = (  # latency, memory, drift, verdict
    (Configuration(), 1000.0, 2.0, 0.0, "bit-exact"),
    (TORCH_COMPILE, 800.0, 2.5, 0.4, "imperceptible"),
    (Configuration.of({"channels_last": {}}), 1100.0, 2.2, 0.0, "bit-exact"),
)


def replay(folder: Path) -> str:
    """A study of three trials, in our tables and in Optuna's, with a picture each. Returns the storage's URL."""
    url = f"sqlite:///{folder / 'paretune.db'}"
    files = folder / "elsewhere" / "replayed"
    files.mkdir(parents=True)
    data = {
        "schema": 1,
        "name": "replayed",
        "workload": {
            "pipelines": {"main": {"class": "StableDiffusionXLPipeline", "model": "someone/model"}},
            "requests": [{"prompt": "a cat", "width_px": 64, "height_px": 64, "steps": 4}],
        },
    }
    machine: dict[str, Any] = dict.fromkeys(("compute_capability", "memory_gib", "driver", "cuda"))
    machine |= {"schema_version": 1, "device_kind": "cpu", "device_name": "Example 9000", "cpu_model": "Example 9000"}
    machine |= {"python": "3.11.9", "platform": "Linux", "cpu_threads": 4, "packages": dict.fromkeys(PACKAGES)}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(study_name="replayed", storage=url, directions=["minimize"] * 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["latency_ms", "peak_vram_gib", "drift"])
    store = FileSystemArtifactStore(_made(files.parent / ".artifacts"))
    rows = []
    for number, (configuration, latency_ms, memory_gib, drift, verdict) in enumerate(TRIALS):
        trial = study.ask()
        for name in ("channels_last", "torch_compile"):
            trial.suggest_categorical(name, ["off", "on"])
        picture = files / f"{number}.png"
        Image.new("RGB", (64, 64), (40 * number, 90, 160)).save(picture)
        upload_artifact(artifact_store=store, file_path=str(picture), study_or_trial=trial)
        study.tell(trial, [latency_ms, memory_gib, drift])
        shape = {"n": 5, "min_ms": latency_ms, "max_ms": latency_ms}
        figures = {"latency_ms": latency_ms, "peak_vram_gib": memory_gib, "drift": drift, "cold_start_s": 5.0}
        rows.append(
            MeasurementRecord(
                schema_version=1,
                apply_py="",
                study="replayed",
                trial=number,
                workload_key="w",
                configuration_key=configuration.key,
                configuration=configuration.to_dict(),
                fingerprint_key="f",
                fingerprint=machine,
                outcome=Outcome.COMPLETE,
                reason="",
                log_tail="",
                measurements={**figures, "latency": [shape], "quality": {"verdict": verdict}},
                phases_s={},
                finished_at="2026-05-04T13:09:00+00:00",
            )
        )
    record = StudyRecord(
        name="replayed",
        import_s=5.0,
        schema_version=1,
        created_at="2026-05-04T13:07:00+00:00",
        study=parse_study(data, "study.yaml", folder).model_dump(by_alias=True, mode="json"),
        workload_key="w",
        fingerprint=machine,
        files=str(files),
        space={},
        left_out={},
        pipelines={},
    )
    records = Records(url)
    records.add_study(record, rows[0])
    for row in rows[1:]:
        records.add_measurement(row)
    return url


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "paretune.agent.cli", "dashboard", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "400"},
    )


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    return replay(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def address(storage: str) -> Iterator[str]:
    """The study's page; at the end, Ctrl-C is seen to be a clean way out."""
    process = start("replayed", "--storage", storage, "--port", "0")
    assert process.stdout is not None
    line = process.stdout.readline()
    try:
        found = re.search(r"http://127\.0\.0\.1:\d+/dashboard/studies/\d+", line)
        assert found, line + process.communicate()[1]
        yield found[0]
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert errors == ""


def fetch(url: str, method: str = "GET", **headers: str) -> Any:
    request = urllib.request.Request(url, method=method, headers={"Accept-Encoding": "identity", **headers})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.status, answer.read()


def api(address: str) -> str:
    return address.replace("/dashboard/", "/api/")


def test_metric_names_and_the_note_are_served(address: str) -> None:
    _, body = fetch(api(address))
    study = json.loads(body)
    assert study["objective_names"] == ["latency_ms", "peak_vram_gib", "drift"]
    note = study["note"]["body"]
    assert note.startswith("1.25 times as fast as the reference")
    assert "/trials?numbers=0,1)" in note


def test_pictures_are_served_from_where_the_study_left_them(address: str, storage: str) -> None:
    root, _, study_id = address.partition("/dashboard/studies/")
    _, body = fetch(api(address))
    trial = json.loads(body)["trials"][1]
    artifact = trial["artifacts"][0]["artifact_id"]
    _, picture = fetch(f"{root}/artifacts/{study_id}/{trial['trial_id']}/{artifact}")
    assert picture.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"Host": "example.com"}),
        ("GET", {"Host": "rebound.example.com:8080"}),
        ("DELETE", {"Origin": "http://example.com"}),
        ("POST", {"Origin": "null"}),
        ("GET", {"Origin": "http://127.0.0.1:1"}),
    ],
)
def test_other_web_pages_are_refused(address: str, method: str, headers: dict[str, str]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        fetch(api(address), method, **headers)
    assert refusal.value.code == 403
    assert fetch(api(address))[0] == 200


def test_its_own_page_may_write_and_what_people_wrote_stays(address: str, storage: str) -> None:
    root = address.partition("/dashboard/")[0]
    _, body = fetch(api(address))
    note = json.loads(body)["note"]
    written = {"version": note["version"] + 1, "body": f"old summary\n\n{OWN_NOTES}\n\nshipped **it**"}
    request = urllib.request.Request(
        f"{api(address)}/note",
        data=json.dumps(written).encode(),
        method="PUT",
        headers={"Content-Type": "application/json", "Origin": root},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status in (200, 204)
    again = start("replayed", "--storage", storage, "--port", "0")
    assert again.stdout is not None
    again.stdout.readline()
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=20)
    _, body = fetch(api(address))
    note = json.loads(body)["note"]["body"]
    assert note.startswith("1.25 times as fast")
    assert "old summary" not in note
    assert note.rstrip().endswith("shipped **it**")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_in_a_browser(address: str) -> None:
    with Browser(1400, 1000) as browser:
        browser.open(address)
        browser.wait_for("document.querySelectorAll('.scatterlayer path.point').length >= 3")
        assert {"Pareto Front", "Best Trials"} <= set(browser.text().splitlines())
        assert "latency_ms" in browser.text()

        browser.open(f"{address}/note")
        browser.wait_for("document.body.innerText.includes('1.25 times as fast as the reference')")
        link = browser.wait_for("[...document.querySelectorAll('a')].find(a => a.href.includes('numbers'))?.href")

        browser.open(link)
        loaded = "[...document.images].filter(i => i.src.includes('/artifacts/') && i.naturalWidth === 64).length"
        browser.wait_for(f"{loaded} === 2")
        assert browser.console == []
        assert [url for url in browser.requests if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []


def failure(*arguments: str) -> str:
    process = start(*arguments)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "Traceback" not in errors
    return errors.strip()


def test_a_missing_study_is_one_sentence(storage: str) -> None:
    assert failure("nothing", "--storage", storage).startswith("error: there is no study 'nothing'")


def test_an_empty_database_is_one_sentence(tmp_path: Path) -> None:
    Records(f"sqlite:///{tmp_path / 'new.db'}")
    assert failure("--storage", f"sqlite:///{tmp_path / 'new.db'}").startswith("error: the database has no study yet")
    missing = failure("--storage", f"sqlite:///{tmp_path / 'missing.db'}")
    assert missing.startswith("error: there is no database")
    assert not (tmp_path / "missing.db").exists()


def test_a_busy_port_is_one_sentence(storage: str) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        assert failure("--storage", storage, "--port", port).startswith(f"error: port {port} cannot be used")


def test_a_missing_extra_is_one_sentence(storage: str, tmp_path: Path) -> None:
    (tmp_path / "optuna_dashboard.py").write_text("raise ModuleNotFoundError(name='optuna_dashboard')")
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(tmp_path)
    try:
        assert "pip install 'paretune[dashboard]'" in failure("--storage", storage)
    finally:
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path
