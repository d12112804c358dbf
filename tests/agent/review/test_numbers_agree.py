"""One claim has one estimate: the same number on every page, in every JSON and in the bundle, on a bad machine too."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from paretune.agent.bundle.contents import Figures
from paretune.agent.bundle.verify import _compare_latency
from paretune.agent.results import Results
from paretune.agent.review import study_view
from paretune.objectives.noise_floor import NoiseFloor
from paretune.studies import Records
from support.launched import Cli
from support.page import Page
from support.replayed import NAME, ask_optuna, replay, url_of

FIGURES = ("latency_ms", "peak_vram_gib", "drift", "cold_start_s")


class Everywhere:
    """An unsteady study, in all the ways it is shown."""

    def __init__(self, folder: Path, cli: Cli) -> None:
        self.results: Results = replay(folder, kind="unsteady")
        storage = ("--storage", url_of(folder))
        assert cli("report", NAME, "-o", str(folder / "report"), *storage).code == 0
        exported = cli("export", NAME, "-o", str(folder / "bundle"), *storage)
        assert exported.code == 0, exported.err
        self.warning = exported.err
        bundle = folder / "bundle"
        self.html = (folder / "report" / "index.html").read_text()
        self.pages = {
            "report": Page(self.html).text,
            "best": cli("best", NAME, *storage).out,
            "README": (bundle / "README.md").read_text(),
        }
        self.best_json = json.loads(cli("best", NAME, "--json", *storage).out)
        self.view = json.loads(cli("report", NAME, "--json", *storage).out)
        self.evidence = json.loads((bundle / "evidence" / "measurements.json").read_text())
        self.manifest = json.loads((bundle / "manifest.json").read_text())
        self.optuna = dashboard_study(folder)
        self.pages["note"] = self.optuna["note"]["body"]


def dashboard_study(folder: Path) -> dict[str, Any]:
    """What the dashboard's page gets of a replayed study."""
    optuna_dashboard = pytest.importorskip("optuna_dashboard", reason="the dashboard extra is not installed")
    import optuna
    from paretune.agent.review.app.optuna_pages import as_reported
    from paretune.agent.review.optuna_storage import ReportedStorage

    study_id = ask_optuna(folder)
    storage = ReportedStorage(Records(url_of(folder)), optuna.storages.RDBStorage(url_of(folder)))
    app = as_reported(optuna_dashboard.wsgi(storage, artifact_store=storage), storage)
    environ: dict[str, Any] = {"PATH_INFO": f"/api/studies/{study_id}", "QUERY_STRING": ""}
    setup_testing_defaults(environ)
    body = b"".join(app(environ, lambda status, headers: lambda data: None))
    return dict(json.loads(body))


@pytest.fixture
def everywhere(tmp_path: Path, cli: Cli) -> Everywhere:
    return Everywhere(tmp_path, cli)


def percentages(text: str) -> Iterator[float]:
    return (float(number) for number in re.findall(r"(\d+(?:\.\d+)?) ?%", text))


def test_every_page_says_the_same_of_the_best_and_the_reference(everywhere: Everywhere) -> None:
    best, reference = everywhere.results.trial(2), everywhere.results.reference
    assert everywhere.results.best_or_none is best
    assert (best.text("latency_ms"), reference.text("latency_ms")) == ("389 ms", "663 ms")
    assert best.measurements["latency_ms"] == 400.0, "what the trial's own process measured is something else"
    for name, text in everywhere.pages.items():
        for words in ("1.70", "1.68 to 1.73", "389 ms", "2.10 GiB", "near-lossless", "5.7 s", "1.46"):
            assert words in text, (name, words)
        if name != "best":  # that one is about a single trial
            assert "663 ms" in text, name
        ratios = set(re.findall(r"(\d+\.\d+) times as fast as the reference", text))
        assert ratios == {"1.70"}, name
        assert set(re.findall(r"(\d+\.\d+) times as fast as torch\.compile", text)) == {"1.46"}, name
    for name in ("report", "README", "note"):
        assert re.search(r"1\.67 on (the )?4", everywhere.pages[name]), name
    report = everywhere.pages["report"]
    assert report.count("400 ms") == report.count("as a trial: 400 ms") > 0
    assert everywhere.view["headline"] in report
    assert everywhere.view["headline"] in everywhere.pages["note"]


def test_json_bundle_and_optuna_have_the_same_numbers(everywhere: Everywhere) -> None:
    rows = {row["number"]: row for row in everywhere.view["rows"]}
    optuna = {trial["number"]: trial for trial in everywhere.optuna["trials"]}
    evidence = {everywhere.evidence[name]["number"]: everywhere.evidence[name] for name in ("trial", "reference")}
    objectives = everywhere.view["optimised"]
    for trial in everywhere.results.complete:
        row = rows[trial.number]
        for name in FIGURES:
            assert row["figures"][name]["value"] == trial.figure(name)
            if trial.number in evidence:
                assert evidence[trial.number]["figures"][name] == trial.figure(name)
        assert optuna[trial.number]["values"] == [trial.figure(name) for name in objectives]
        assert all(value <= 0 for value in optuna[trial.number]["constraints"]) == row["acceptable"]
    best = rows[2]
    assert best == {key: value for key, value in everywhere.best_json.items() if key not in ("study", "headline")}
    assert everywhere.manifest["figures"] == everywhere.evidence["trial"]["figures"]
    assert everywhere.evidence["trial"]["measurements"]["latency_ms"] == 400.0
    against = everywhere.evidence["confirmation"]["against"]["reference"]
    assert 1 / against["ratio"] == best["speed"]["times"] == best["confirmation"]["reference"]["times"]
    assert [1 / against["high"], 1 / against["low"]] == best["speed"]["interval"]
    reference_ms = rows[0]["figures"]["latency_ms"]["value"]
    assert reference_ms / best["figures"]["latency_ms"]["value"] == pytest.approx(best["speed"]["times"], rel=1e-9)
    assert everywhere.evidence["trial"]["cold_start"] == best["cold_start_measured"]


def test_the_stages_of_a_call_add_up_to_the_latency_that_is_shown(everywhere: Everywhere) -> None:
    (bars,) = everywhere.view["stages"].values()
    for bar in bars:
        assert bar["total"]["value"] == pytest.approx(everywhere.results.trial(bar["trial"]).figure("latency_ms"))
        assert sum(stage["value"] for stage in bar["stages"].values()) == pytest.approx(bar["total"]["value"])


def test_that_the_machine_was_unsteady_is_said_once_and_without_a_percentage(everywhere: Everywhere) -> None:
    floor = everywhere.results.floor
    assert floor is not None
    assert floor.of_figure("latency_ms") > 1, "the study has a floor that must not be printed"
    for name, text in everywhere.pages.items():
        assert text.count("too unsteady") == 1, name
        assert max(percentages(text)) <= 100, name
        assert "oise floor: " not in text, name
    assert everywhere.pages["report"].index("too unsteady") < everywhere.pages["report"].index("1.70 times as fast")
    assert everywhere.warning.count("too unsteady") == 1
    assert "905 ms above 30%" in everywhere.pages["report"]


def test_a_single_measurement_on_an_unsteady_machine_has_no_speed(everywhere: Everywhere) -> None:
    unconfirmed = [row for row in everywhere.view["rows"] if row["speed"] and row["speed"]["unconfirmed"]]
    assert [row["number"] for row in unconfirmed] == [3, 4, 6, 7]
    assert {(row["speed_text"], row["speed"]["times"]) for row in unconfirmed} == {("unconfirmed", None)}
    assert not re.search(r"2\.53 ?[x×]", everywhere.html)


def test_the_best_is_on_the_front_that_everything_draws(everywhere: Everywhere) -> None:
    front = [trial.number for trial in everywhere.results.front]
    assert everywhere.view["best"] in front
    assert everywhere.view["front"] == [trial["number"] for trial in everywhere.optuna["best_trials"]] == front
    assert [row["number"] for row in everywhere.view["rows"] if row["on_front"]] == sorted(front)


def test_a_verdict_is_on_all_pictures_and_drift_on_those_that_all_trials_have(everywhere: Everywhere) -> None:
    row = next(row for row in everywhere.view["rows"] if row["number"] == 2)
    assert (row["picture_count"], row["drift_pictures"]) == (6, 4)
    assert row["figures"]["drift"]["value"] < everywhere.results.trial(2).measurements["drift"]
    assert "6 of 6 pictures" in everywhere.pages["report"]
    assert "Drift is compared on the 4 pictures that every trial has" in everywhere.pages["report"]


def _figures(latency_ms: float) -> Figures:
    return Figures(latency_ms=latency_ms, peak_vram_gib=1.0)


def test_verify_has_no_percentage_for_a_machine_that_was_unsteady() -> None:
    floor = NoiseFloor(5, {"latency_ms": 5.52}, {})
    slower = _compare_latency(_figures(400.0), _figures(500.0), floor, 1)
    assert slower.passed
    assert slower.text == (
        "500.0 ms now, 400.0 ms in the evidence (+25.0%): the evidence is from a machine too unsteady to compare "
        "closely, so up to 1.5 times the latency passes"
    )
    assert not _compare_latency(_figures(400.0), _figures(700.0), floor, 1).passed


def test_what_rests_on_a_contradicted_reference_is_no_result(tmp_path: Path, cli: Cli) -> None:
    results = replay(tmp_path, kind="contradicted")
    view, storage = study_view(results), ("--storage", url_of(tmp_path))
    assert results.reference_contradicted
    assert cli("report", NAME, "-o", str(tmp_path / "report"), *storage).code == 0
    report = Page((tmp_path / "report" / "index.html").read_text()).text
    best = cli("best", NAME, *storage).out
    for text in (report, best):
        assert not re.search(r"\d times as fast as|2\.50 ?[x×]", text)
        assert "never took the time it had taken before" in text
    assert view.headline.startswith("There is no result for replayed")
    assert "paretune export" not in report
    refused = cli("export", NAME, "-o", str(tmp_path / "bundle"), *storage).sentence()
    assert refused.startswith(
        "trial 2 of replayed is unconfirmed, and the machine changed too much for any comparison: "
    )
    assert "--unconfirmed" in refused
    assert not (tmp_path / "bundle").exists()
    asked = cli("export", NAME, "-o", str(tmp_path / "bundle"), "--unconfirmed", *storage)
    assert asked.code == 0
    assert asked.err.startswith("warning: The reference was measured again twice during the search and never took ")
    readme = (tmp_path / "bundle" / "README.md").read_text()
    assert "Its gain is unconfirmed" in readme
    assert not re.search(r"2\.50 ?(x|times)", readme)
    assert cli("export", NAME, "-o", str(tmp_path / "reference"), "--trial", "0", *storage).code == 0
