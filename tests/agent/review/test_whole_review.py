"""The second job from its beginning to its end, in a browser: a study that is being launched while the page is open is
filtered, compared, rated blind, chosen from, exported and downloaded, and the bundle verifies.
"""

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("a2wsgi", reason="the dashboard extra is not installed")
from paretune.agent.bundle import verify
from paretune.agent.results import Results
from paretune.studies import Records
from support.browser import CHROMIUM, Browser
from support.launching import command, run_cli, tiny_study, write_study
from support.served import served

CACHED = [{"deepcache": {"interval": 2, "branch": 0, "full_percent": 0}}]
PRESETS = {"space": {"techniques": {"deepcache": {}, "fused_qkv": {}}, "presets": [CACHED, [{"fused_qkv": {}}]]}}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_whole_of_it(tiny_model: Path, tmp_path: Path, width: int) -> None:
    file = write_study(tmp_path / "tiny.yaml", tiny_study(tiny_model, **PRESETS))
    storage = f"sqlite:///{tmp_path}/paretune.db"
    begun = run_cli("launch", str(file), "--trials", "1", "--storage", storage, cwd=tmp_path)
    assert begun.returncode == 0, begun.stderr
    with served(storage, tmp_path) as visitor, Browser(width, 844, timeout_s=120) as browser:
        browser.open(f"{visitor.root}/")
        browser.evaluate("window.same = true")
        launching = subprocess.Popen(
            command("launch", str(file), "--trials", "3", "--storage", storage),
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "COLUMNS": "200"},
        )
        trials = "document.querySelector('[data-field=\"trials\"]').textContent"
        browser.wait_for("document.querySelector('[data-field=\"state\"]').textContent.includes('running')")
        browser.wait_for(f"{trials} === '3'")
        assert browser.evaluate("window.same"), "the page was not loaded again"
        assert launching.wait(120) == 0

        browser.open(f"{visitor.root}/studies/tiny")
        browser.wait_for("document.querySelectorAll('#plot .scatterlayer path.point').length >= 3")
        changed = "document.getElementById('verdict').dispatchEvent(new Event('input', {bubbles: true}))"
        browser.evaluate(f"document.getElementById('verdict').value = 0; {changed}")
        browser.wait_for("document.querySelectorAll('#trials tbody tr').length < 3")
        browser.wait_for("location.search.includes('verdict=bit-exact')")

        trial = next(one for one in Results(Records(storage), "tiny").complete if "deepcache" in str(one.configuration))
        browser.open(f"{visitor.root}/studies/tiny/pictures?trial={trial.number}")
        browser.evaluate("document.querySelector('.pair-card a').click()")
        browser.wait_for("document.getElementById('candidate')?.naturalWidth === 64")
        for view in ("flicker", "difference", "wipe"):
            browser.evaluate(f"document.querySelector('button[data-view={view}]').click()")
            browser.wait_for(f"location.search.includes('view={view}')")

        browser.open(f"{visitor.root}/studies/tiny/blind?trial={trial.number}")
        browser.evaluate("document.getElementById('by').value = 'Ann'; document.getElementById('who').requestSubmit()")
        for done in range(3):
            browser.wait_for(f"document.getElementById('said').textContent.startsWith('{done} of 3')")
            browser.wait_for("document.getElementById('right').naturalWidth > 0")
            browser.evaluate("document.querySelector('[data-better=\"same\"]').click()")
        browser.wait_for("document.getElementById('said').textContent.includes('Thank you')")

        browser.open(f"{visitor.root}/studies/tiny/choose/{trial.number}")
        browser.evaluate("document.getElementById('export').requestSubmit()")
        browser.wait_for("!document.getElementById('ready').hidden")
        archive = visitor.get(f"/studies/tiny/export/{trial.number}/zip")
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.console == []
    (tmp_path / "bundle.zip").write_bytes(archive.body)
    with zipfile.ZipFile(tmp_path / "bundle.zip") as files:
        files.extractall(tmp_path / "unpacked")
    verified = verify(tmp_path / "unpacked" / f"tiny-trial-{trial.number}")
    assert {check.name: check.passed for check in verified.checks}["pictures"]
    assert {one.rater for one in Records(storage).ratings("tiny")} == {"Ann"}
