"""What `export` writes and warns of, over a replayed study: nothing is run or timed."""

import json
from pathlib import Path

import pytest
from paretune.agent.bundle import MANIFEST, SCHEMA_VERSION, bundle_readme
from paretune.agent.bundle.cold_table import cold_rows
from paretune.agent.bundle.export import environment, why_no_artefacts
from paretune.agent.bundle.ways import Artefacts, Way
from paretune.agent.results import Results
from paretune.search_space import technique
from support.replayed import replay
from support.replayed_cli import UNCONFIRMED, ReplayedCli


def test_a_confirmed_winner_is_exported_without_a_warning(study: ReplayedCli, tmp_path: Path) -> None:
    said = study("export", "-o", str(tmp_path / "b"))
    assert (said.code, said.err) == (0, "")
    evidence = json.loads((tmp_path / "b" / "evidence" / "measurements.json").read_text())
    assert evidence["schema"] == SCHEMA_VERSION
    assert (evidence["confirmed"], evidence["doubts"]) == (True, [])
    assert evidence["confirmation"]["against"]["torch_compile"]["decision"] == "faster"
    first = {"block": 0, "trial": 401.0, "reference": 1001.0, "torch_compile": 803.0}
    assert (len(evidence["confirmation"]["blocks"]), evidence["confirmation"]["blocks"][0]) == (6, first)
    assert json.loads((tmp_path / "b" / MANIFEST).read_text())["confirmed"] is True


@pytest.mark.parametrize("choice", [UNCONFIRMED, ("--trial", "7")])
def test_what_was_not_confirmed_is_exported_with_one_warning(
    study: ReplayedCli, tmp_path: Path, choice: tuple[str, str]
) -> None:
    study.change_calls(7, throttled=["hardware slowdown"])
    study.change_calls(4, throttled=["hardware slowdown"])  # nobody's concern here
    said = study("export", "-o", str(tmp_path / "b"), *choice)
    assert said.code == 0
    (warning,) = said.err.splitlines()
    assert warning.startswith("warning: Trial 7 is unconfirmed: it was not measured in blocks against the reference; ")
    assert warning.endswith("During the measurements, the GPU was throttled in trial 7.")
    evidence = json.loads((tmp_path / "b" / "evidence" / "measurements.json").read_text())
    assert (evidence["confirmed"], evidence["confirmation"]) == (False, None)
    assert json.loads((tmp_path / "b" / MANIFEST).read_text())["confirmed"] is False
    for doubt in evidence["doubts"]:
        assert f"> {doubt}" in (tmp_path / "b" / "README.md").read_text()


def test_a_trial_that_breaks_a_limit_or_was_cut_short_is_exported_with_a_warning(
    study: ReplayedCli, tmp_path: Path
) -> None:
    broken = study("export", "--trial", "3", "-o", str(tmp_path / "b")).err
    assert "Trial 3 breaks the study's limits: pictures are visible, the limit is near-lossless." in broken
    early = study("export", "--trial", "6", "-o", str(tmp_path / "b")).err
    assert (
        "The figures of trial 6 are rough: measuring ended early because trial 2 was clearly better in everything."
        in early
    )


@pytest.mark.parametrize(("torch", "index"), [("2.11.0+cu130", "cu130"), ("2.13.0+cpu", "cpu"), ("2.13.0", None)])
def test_the_versions_of_a_bundle_can_be_installed_from_public_indexes(
    study: ReplayedCli, torch: str, index: str | None
) -> None:
    packages = {"torch": torch, "torchao": "0.18.0+cpu", "numpy": "2.4.6"}
    results = study.results
    results.record.fingerprint = {**results.record.fingerprint, "packages": packages}
    lines = environment(results, results.trial(2)).splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    indexes = [] if index is None else [f"--extra-index-url https://download.pytorch.org/whl/{index}"]
    assert lines == [*indexes, "numpy==2.4.6", f"torch=={torch}"]


def test_the_reference_alone_needs_no_confirmation(study: ReplayedCli, tmp_path: Path) -> None:
    said = study("export", "--trial", "0", "-o", str(tmp_path / "b"))
    assert (said.code, said.err) == (0, "")


def test_the_readme_of_a_bundle_says_what_may_be_loaded_later(study: ReplayedCli) -> None:
    trial = study.results.trial(2)
    text = bundle_readme(trial)
    section = text[text.index("## What may be loaded later") : text.index("## What it gains")]
    assert trial.configuration.steps
    for step in trial.configuration.steps:
        assert f"- `{step.technique}`: {technique(step.technique).adapters_later}" in section
    assert "What may be loaded later" not in bundle_readme(study.results.reference)


def test_the_readme_of_a_bundle_says_what_was_shown(study: ReplayedCli, tmp_path: Path) -> None:
    text = bundle_readme(study.results.trial(2))
    for words in (
        "Latency: 2.50 times as fast as the reference (95 % interval 2.48 to 2.52), 2.00 times as fast as "
        "torch.compile (95 % interval 1.98 to 2.02), in 6 blocks of fresh processes.",
        "Pictures: **near-lossless** (4 of 4 pictures, 2 of 2 prompts: failure rate of prompts below 77.6 % at 95 % "
        "confidence).",
        "| this bundle | 401 ms | 2.50x (2.48 to 2.52 in 6 blocks) | 96 % | 2.10 GiB | "
        "5.7 s (median of 3; estimated 5.5 s) |",
        "Noise floor: 2.3% in latency and 0.9% in memory",
        "Cold start of this bundle in 3 fresh processes with empty caches: 5.7 s (median), of which, each a median: "
        "interpreter 0.1 s, imports 4.2 s, weights 2.5 s (not counted), apply 0.3 s, first picture 1.1 s.",
        "Drift is 1.62 on the 4 of them that every trial of the study has",
    ):
        assert words in text
    (tmp_path / "untrusted").mkdir()
    unconfirmed: Results = replay(tmp_path / "untrusted", trusted=False)
    unsure = bundle_readme(unconfirmed.trial(7))
    assert unsure.startswith("# replayed, trial 7\n\nIts gain is unconfirmed: it was not measured in blocks"), (
        "no speed"
    )
    assert unsure.index("> Trial 7 is unconfirmed") < unsure.index("## Use it")
    assert "The noise floor was not measured" in unsure
    assert "This is the reference itself: nothing was changed." in bundle_readme(unconfirmed.reference)


def test_the_readme_compares_cold_starts_that_were_measured_as_table_and_bars(tmp_path: Path) -> None:
    results = replay(tmp_path)
    cold = {"interpreter_s": 0.1, "import_s": 3.0, "load_s": 2.0, "apply_s": 0.4, "first_image_s": 0.5}
    built = Artefacts(
        ways=(
            Way(
                "standalone_compile",
                build_s=60.0,
                cold_start_s=4.0,
                latency_ms=400.0,
                size_bytes=9,
                cold_start={**cold, "cold_start_s": 4.0, "n": 5},
            ),
        )
    )
    rows = cold_rows(results, results.trial(2), built.ways)
    assert [row.name.partition(",")[0].partition(":")[0] for row in rows] == [
        *("eager", "torch.compile", "this configuration without artefacts", "this bundle"),
    ]
    bars = [len(row.bar) for row in rows]
    assert (bars.index(max(bars)), bars[-1] < bars[1] / 5) == (1, True), "compiling takes longest"
    text = bundle_readme(results.trial(2), built)
    assert "4.0 s with its compiled code (median of 5); without it " in text
    assert "| this bundle, standalone_compile | 5 | 0.1 s | 3.0 s | 0.4 s | 0.5 s | **4.0 s** | █" in text


def test_the_readme_of_a_bundle_says_which_way_its_code_is_kept_and_what_failed(study: ReplayedCli) -> None:
    trial = study.results.trial(2)
    kept = Way("standalone_compile", parts=3, build_s=70, cold_start_s=5.1, latency_ms=400.0, size_bytes=1 << 20)
    failed = Way("portable_cache", failed="torch has nothing in its caches")
    text = bundle_readme(trial, Artefacts(ways=(kept, failed)))
    assert 'apply(pipeline, artefacts="bundle/artefacts")' in text
    assert "| standalone_compile (kept) | 70.0 s | 5.1 s | 400.0 ms | 1.0 MiB |" in text
    assert "| portable_cache | failed: torch has nothing in its caches | | | |" in text
    assert "every worker compiles" in bundle_readme(trial, Artefacts(ways=(failed,)))
    assert "## Compiled code" not in bundle_readme(trial)


def test_no_code_is_built_where_it_could_not_be_used_and_the_evidence_says_why(
    study: ReplayedCli, tmp_path: Path
) -> None:
    for options, why in (((), "nothing in the configuration is compiled"), (("--no-artefacts",), "not asked for")):
        assert study("export", "-o", str(tmp_path / "b"), *options).code == 0
        evidence = json.loads((tmp_path / "b" / "evidence" / "measurements.json").read_text())
        assert why in evidence["artefacts"]["why_not"]
        assert not (tmp_path / "b" / "artefacts").exists()
    compiled = study.results.torch_compile
    assert compiled is not None
    why_not = str(why_no_artefacts(study.results, compiled))
    assert "not the machine of the evidence" in why_not or "NVML cannot describe cuda" in why_not
