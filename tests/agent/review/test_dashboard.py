"""Optuna's dashboard over a replayed study, served by the command itself and seen by a browser."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paretune.agent.results import Results
from paretune.agent.review.app.optuna_pages import OWN_NOTES
from paretune.studies import Outcome, Records
from support.browser import CHROMIUM, Browser
from support.replayed import SLICED, add, ask_optuna, replay, timed_again, trial_run, url_of

pytest.importorskip("optuna_dashboard", reason="the dashboard extra is not installed")
pytest.importorskip("a2wsgi", reason="the dashboard extra is not installed")
optuna = pytest.importorskip("optuna")
from paretune.agent.review.optuna_storage import ReportedStorage  # noqa: E402


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
    folder = tmp_path_factory.mktemp("study")
    replay(folder)
    ask_optuna(folder)
    return url_of(folder)


@pytest.fixture(scope="module")
def address(storage: str) -> Iterator[str]:
    """The study's page of Optuna's dashboard; at the end, Ctrl-C is seen to be a clean way out."""
    process = start("replayed", "--storage", storage, "--port", "0")
    assert process.stdout is not None
    line = process.stdout.readline()
    try:
        found = re.search(r"(http://127\.0\.0\.1:\d+)/studies/replayed ", line)
        assert found, line + process.communicate()[1]
        yield f"{found[1]}/dashboard/studies/1"
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert errors == ""


def fetch(url: str, method: str = "GET", **headers: str) -> Any:
    own = {} if method == "GET" else {"Origin": "/".join(url.split("/")[:3])}
    request = urllib.request.Request(url, method=method, headers={"Accept-Encoding": "identity", **own, **headers})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.status, answer.read()


def api(address: str) -> str:
    return address.replace("/dashboard/", "/api/")


def test_metric_names_and_the_note_are_served(address: str) -> None:
    _, body = fetch(api(address))
    study = json.loads(body)
    assert study["objective_names"] == ["latency_ms", "peak_vram_gib", "drift"]
    note = study["note"]["body"]
    assert note.startswith("2.50 times as fast as the reference (401 ms against 1.00 s; 95 % interval 2.48 to 2.52")
    assert "/trials?numbers=0,7,2,1)" in note


def test_the_note_says_what_can_be_trusted(address: str) -> None:
    note = json.loads(fetch(api(address))[1])["note"]["body"]
    assert "Noise floor: 2.3% in latency and 0.9% in memory, from 5 processes" in note
    assert "Trial 2 ties with trial 7 in latency. Of configurations that tie in latency, the best is one that" in note
    assert "unconfirmed" not in note


def test_values_feasibility_and_best_trials_are_the_reports(address: str, storage: str) -> None:
    """Optuna's own list of best trials knows nothing of limits: it would have trial 3, and not all of the front."""
    study = json.loads(fetch(api(address))[1])
    results = Results(Records(storage), "replayed")
    trials = {trial["number"]: trial for trial in study["trials"]}
    assert (
        [trial["number"] for trial in study["best_trials"]] == [trial.number for trial in results.front] == [7, 2, 1, 0]
    )
    for trial in results.complete:
        assert trials[trial.number]["values"] == [trial.figure(name) for name in results.study.optimised]
        assert all(value <= 0 for value in trials[trial.number]["constraints"]) == trial.acceptable
    assert (trials[5]["state"], trials[5]["constraints"]) == ("Pruned", [1.0])
    assert {"name": "deepcache.interval", "value": "3"} in [
        {"name": parameter["name"], "value": parameter["param_external_value"]} for parameter in trials[2]["params"]
    ]
    later = json.loads(fetch(f"{api(address)}?after=6")[1])
    assert [trial["number"] for trial in later["trials"]] == [6, 7]
    assert later["best_trials"] == study["best_trials"]


def test_what_is_measured_meanwhile_is_shown(tmp_path: Path) -> None:
    results = replay(tmp_path, only=(1, 2))
    study_id = ask_optuna(tmp_path)
    storage = ReportedStorage(Records(url_of(tmp_path)), optuna.storages.RDBStorage(url_of(tmp_path)))
    before = [trial.values for trial in storage.get_all_trials(study_id)]
    timed_again(results, 2, peak_vram_gib=1.5)
    add(results, trial_run(tmp_path, 4, SLICED, "cpu", outcome=Outcome.OOM, reason="out of memory"))
    storage._refreshed_at = -1e9  # as if two seconds had gone by
    storage.refresh()
    trials = storage.get_all_trials(study_id)
    assert [trial.values for trial in trials[:2]] == before[:2]
    assert trials[2].values[1] == 1.5
    assert [trial.state.name for trial in trials[3:]] == ["FAIL", "PRUNED"]
    assert [trial.number for trial in trials] == [0, 1, 2, 3, 4]
    assert storage.get_trial(trials[4]._trial_id).user_attrs["reason"] == "out of memory"


@pytest.mark.parametrize(("method", "path"), [("DELETE", ""), ("POST", "/rename"), ("PUT", "/preference_feedback")])
def test_nothing_but_notes_can_be_changed(address: str, method: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        fetch(api(address) + path, method)
    assert refusal.value.code == 403
    assert b"Only notes" in refusal.value.read()
    assert len(json.loads(fetch(api(address))[1])["trials"]) == 8


def test_pictures_are_served_from_where_the_study_left_them(address: str, storage: str) -> None:
    root, _, study_id = address.partition("/dashboard/studies/")
    _, body = fetch(api(address))
    trial = json.loads(body)["trials"][1]
    artifact = trial["artifacts"][0]["artifact_id"]
    _, picture = fetch(f"{root}/artifacts/{study_id}/{trial['trial_id']}/{artifact}")
    assert picture.startswith(b"\x89PNG")


def put_note(address: str, note: dict[str, Any]) -> None:
    """As the dashboard's own page does."""
    root = address.partition("/dashboard/")[0]
    request = urllib.request.Request(
        f"{api(address)}/note",
        data=json.dumps(note).encode(),
        method="PUT",
        headers={"Content-Type": "application/json", "Origin": root},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status in (200, 204)


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


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        *((path, {}) for path in ("/", "/dashboard/", "/api/studies", "/static/bundle.js", "/nowhere")),
        ("/api/studies/0?after=x", {}),  # answered by an error
        ("/api/studies", {"Host": "evil.example"}),
    ],
    ids=lambda value: str(value)[:24],
)
def test_no_page_can_show_it_in_a_frame(address: str, path: str, headers: dict[str, str]) -> None:
    """Whatever is answered says so."""
    root = "/".join(address.split("/")[:3])
    try:
        answer = urllib.request.urlopen(urllib.request.Request(root + path, headers=headers))
    except urllib.error.HTTPError as error:
        answer = error
    (policy,) = answer.headers.get_all("Content-Security-Policy")
    assert policy.endswith("frame-ancestors 'none'")
    assert answer.headers.get_all("X-Frame-Options") == ["DENY"]


def test_its_own_page_may_write_and_what_people_wrote_stays(address: str, storage: str) -> None:
    _, body = fetch(api(address))
    note = json.loads(body)["note"]
    put_note(address, {"version": note["version"] + 1, "body": f"{'long ' * 1000}\n\n{OWN_NOTES}\n\nnot yet"})
    written = {"version": note["version"] + 2, "body": f"old summary\n\n{OWN_NOTES}\n\nshipped **it**"}
    put_note(address, written)
    again = start("replayed", "--storage", storage, "--port", "0")
    assert again.stdout is not None
    again.stdout.readline()
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=20)
    _, body = fetch(api(address))
    note = json.loads(body)["note"]["body"]
    assert note.startswith("2.50 times as fast")
    assert "old summary" not in note
    assert note.rstrip().endswith("shipped **it**")
    again = {"version": written["version"], "body": "of an older page"}
    with pytest.raises(urllib.error.HTTPError) as refusal:
        put_note(address, again)
    assert refusal.value.code == 409


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_in_a_browser(address: str) -> None:
    with Browser(1400, 1000) as browser:
        browser.open(address)
        browser.wait_for("document.querySelectorAll('.scatterlayer path.point').length >= 3")
        lines = browser.text().splitlines()
        assert {"Pareto Front", "Best Trials"} <= set(lines)
        assert "latency_ms" in browser.text()
        best = [line for line in lines[lines.index("Best Trials") :] if re.fullmatch(r"Trial \d+", line)]
        assert best == ["Trial 7", "Trial 2", "Trial 1", "Trial 0"], "the report's front, and nothing else"

        browser.open(f"{address}/note")
        browser.wait_for("document.body.innerText.includes('2.50 times as fast as the reference')")
        link = browser.wait_for("[...document.querySelectorAll('a')].find(a => a.href.includes('numbers'))?.href")

        browser.open(link)
        # Each is the reference's picture and the trial's side by side, with a gap.
        loaded = "[...document.images].filter(i => i.src.includes('/artifacts/') && i.naturalWidth === 68).length"
        browser.wait_for(f"{loaded} === 4")
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
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(name='uvicorn')")
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *([path] if path else [])])
    try:
        assert "pip install 'paretune[dashboard]'" in failure("--storage", storage)
    finally:
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path
