"""The front of a study in the dashboard: what it shows, filters and picks, on a server and in a browser."""

import http.client
import itertools
import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("a2wsgi", reason="the dashboard extra is not installed")
from paretune.agent.results import Results
from paretune.agent.review.app.summaries import summary
from paretune.search_space import Configuration
from paretune.studies import Records
from support.browser import CHROMIUM, Browser
from support.launched import Cli
from support.many import many
from support.page import Page
from support.replayed import HOSTILE, add, measured, replay, timed_again, trial_run, url_of
from support.served import Visitor, served

FRONT = "/studies/replayed"


@pytest.fixture(scope="module")
def visitor(folder: Path) -> Iterator[Visitor]:
    with served(url_of(folder), folder) as visitor:
        yield visitor


def test_the_list_has_the_gain_over_both_baselines(visitor: Visitor) -> None:
    text = Page(visitor.get("/").text).text
    for words in ("replayed", "StableDiffusionXLPipeline, 2 requests, 32 × 32", "Example <CPU> 9000", "confirmed"):
        assert words in text
    assert "2.50× (2.48 to 2.52)" in text
    assert "2.00× (1.98 to 2.02)" in text


def test_the_page_shows_what_the_report_does(visitor: Visitor, folder: Path) -> None:
    page = Page(visitor.get(FRONT).text)
    results = Results(Records(url_of(folder)), "replayed")
    for trial in results.complete:
        assert all(trial.text(name) in page.text for name in ("latency_ms", "peak_vram_gib", "drift"))
    assert "2.50 times as fast as the reference (401 ms against 1.00 s; 95 % interval 2.48 to 2.52" in page.text
    assert "apply: it <broke>" in page.text
    assert "pictures near-lossless or better" in page.text


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ("", {}),
        ("memory=2.3", {"--limit": "peak_vram_gib<=2.3"}),
        ("verdict=imperceptible", {}),
        ("cold=5.5&memory=2.2", {}),
    ],
)
def test_the_picks_are_what_the_command_line_gives(
    visitor: Visitor, folder: Path, cli: Cli, asked: str, options: dict[str, str]
) -> None:
    for pick in visitor.get(f"{FRONT}/picks?{asked}").json():
        words = shlex.split(pick["command"])[1:]
        assert all(word in words for pair in options.items() for word in pair)
        said = cli(*words, "--json", "--storage", url_of(folder))
        if pick["trial"] is None:
            assert pick["why"] == said.sentence()
        else:
            assert json.loads(said.out)["number"] == pick["trial"]


def test_a_limit_that_nothing_keeps_is_a_sentence(visitor: Visitor) -> None:
    found = visitor.get(f"{FRONT}/picks?memory=0.1").json()
    assert [pick["trial"] for pick in found] == [None] * 3
    assert "none of 7 measured trials keep peak_vram_gib<=0.1" in found[0]["why"]
    assert visitor.get(f"{FRONT}/picks?verdict=lovely", accept="application/json").status == 409


def test_random_weights_have_no_verdicts(tmp_path: Path) -> None:
    replay(tmp_path, assessed=False)
    with served(url_of(tmp_path), tmp_path) as visitor:
        page = Page(visitor.get(FRONT).text)
        assert "near-lossless" not in page.text.partition("Peak memory at most")[0]
        assert [pick["title"] for pick in visitor.get(f"{FRONT}/picks").json()] == [
            "Fastest lossless",
            "Fastest",
            "Smallest",
        ]


def test_what_is_measured_meanwhile_is_on_the_page(tmp_path: Path) -> None:
    results = replay(tmp_path, only=(1, 2))
    with served(url_of(tmp_path), tmp_path) as visitor:
        assert "3 trials" in Page(visitor.get(FRONT).text).text
        add(results, trial_run(tmp_path, 9, results.trial(1).configuration, "cpu", outcome="oom", reason="too large"))
        time.sleep(1.1)
        assert "too large" in visitor.get(FRONT).text


def test_the_time_left_is_by_the_pace_where_several_are_measured_at_a_time(tmp_path: Path) -> None:
    """Each took 9 s by itself, and they came every two seconds."""
    results = replay(tmp_path, only=())
    assert summary(results, True).left == "the first trials are being measured"
    found = summary(with_trials(results, tmp_path, 12), True).left
    to_go = results.study.budget.trials - len(results.trials)
    seconds = 2 * to_go
    amount = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds} s"
    assert found == f"about {amount} for {to_go} more trials"


def with_trials(results: Results, folder: Path, count: int) -> Results:
    """More trials, one every two seconds."""
    shapes = [Configuration.of({"deepcache": {"interval": i, "branch": b}}) for i in (2, 3, 4, 5) for b in (0, 1, 2)]
    runs = [
        trial_run(
            folder,
            20 + number,
            shapes[number],
            "cpu",
            finished_at=f"2026-05-04T14:00:{2 * number:02d}+00:00",
            measurements=measured(500.0, 2.0, "imperceptible", 0.4, 47.0, device="cpu"),
        )
        for number in range(count)
    ]
    return add(results, *runs)


def test_the_list_brings_itself_up_to_date(tmp_path: Path) -> None:
    results = replay(tmp_path, only=(1, 2))
    with served(url_of(tmp_path), tmp_path) as visitor:
        connection = http.client.HTTPConnection("127.0.0.1", visitor.port, timeout=30)
        connection.request("GET", "/events")
        stream = connection.getresponse()
        assert stream.getheader("content-type") == "text/event-stream; charset=utf-8"
        assert next_event(stream)["studies"][0]["trials"] == 3
        add(results, trial_run(tmp_path, 9, results.trial(1).configuration, "cpu", outcome="oom", reason="too large"))
        (changed,) = next_event(stream)["studies"]
        assert (changed["trials"], changed["failures"], changed["running"]) == (4, 1, False)
        connection.close()


def next_event(stream: http.client.HTTPResponse) -> Any:
    """The data of the next event of a stream."""
    while True:
        line = stream.readline().decode()
        if line.startswith("data: "):
            return json.loads(line.removeprefix("data: "))


def test_names_prompts_and_errors_stay_text(visitor: Visitor) -> None:
    page = Page(visitor.get(FRONT).text)
    assert "<dogs>" in page.text
    assert {attributes.get("src") for tag, attributes in page.tags if tag == "script"} == {
        None,  # the data of the page, which nothing runs
        "/assets/page.js",
        "/assets/plotly.js",
        "/assets/labels.js",
        "/assets/front.js",
    }
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes or "style" in attributes]
    assert HOSTILE not in visitor.get(FRONT).text


def test_a_page_of_many_trials_does_not_compare_each_with_each(tmp_path: Path) -> None:
    """A page of 300 takes a fraction of a second: nothing is timed here, but comparisons are counted."""
    results = many(tmp_path, 60)
    asked = 0
    original = type(results.reference).ties_with

    def counted(self: object, *arguments: object) -> bool:
        nonlocal asked
        asked += 1
        return bool(original(self, *arguments))  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, served(url_of(tmp_path), tmp_path) as visitor:
        patch.setattr(type(results.reference), "ties_with", counted)
        page = Page(visitor.get(FRONT).text)
    assert [tag for tag, _ in page.tags].count("tr") > 60
    assert asked < 10 * 60


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_the_front_in_a_browser(visitor: Visitor) -> None:
    drawn = "document.querySelectorAll('#plot .scatterlayer path.point').length"
    with Browser(1280, 900) as browser:
        browser.open(f"{visitor.root}/")
        browser.wait_for("document.querySelector('tr[data-study] a')?.textContent === 'replayed'")
        browser.open(visitor.root + FRONT)
        browser.wait_for(f"{drawn} === 7")
        browser.evaluate("document.getElementById('verdict').value = 1")
        browser.evaluate("document.getElementById('verdict').dispatchEvent(new Event('input', {bubbles: true}))")
        browser.wait_for("document.querySelectorAll('#trials tbody tr:not([hidden])').length === 3")
        browser.wait_for("document.querySelector('#picks').innerText.includes('--verdict imperceptible')")
        browser.wait_for("location.search.includes('verdict=imperceptible')")
        # A link shows the same.
        browser.open(f"{visitor.root}{FRONT}?x=peak_vram_gib&y=cold_start_s&memory=2.2&sort=-drift")
        browser.wait_for("document.querySelectorAll('#trials tbody tr:not([hidden])').length === 5")
        assert browser.evaluate("document.querySelector('#trials tbody tr').dataset.number") == "3"
        assert "peak memory, GiB" in browser.evaluate("document.querySelector('#plot').textContent")
        for width in (1280, 390):
            browser.resize(width, 844)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.console == []
        assert [url for url in browser.requests if not url.startswith((visitor.root, "data:", "blob:"))] == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_names_of_points_do_not_overlap(tmp_path: Path) -> None:
    """Not even where all that have one are measured alike, on a phone."""
    results = replay(tmp_path)
    for number, ms in ((1, 990.0), (2, 985.0)):
        timed_again(results, number, latency_ms=ms, drift=0.05)
    repeated = Configuration.of({"channels_last": {}, "torch_compile": {"region": "repeated_blocks"}})
    figures = measured(980.0, 2.5, "imperceptible", 0.06, 46.0, device="cpu")
    add(results, trial_run(tmp_path, 8, repeated, "cpu", measurements=figures))
    boxes = (
        "[...document.querySelectorAll('#plot .annotation-text')].map((one) => {"
        "const box = one.getBoundingClientRect();"
        "return [one.textContent, box.left, box.top, box.right, box.bottom]; })"
    )
    with served(url_of(tmp_path), tmp_path) as visitor, Browser(1280, 900) as browser:
        for width in (1280, 390):
            browser.resize(width, 900)
            browser.open(f"{visitor.root}{FRONT}?x=latency_ms&y=peak_vram_gib")
            browser.wait_for("document.querySelectorAll('#plot .annotation-text').length >= 5")
            found = browser.evaluate(boxes)
            assert {"reference", "torch.compile", "torch.compile at its best", "best"} <= {name for name, *_ in found}
            for one, other in itertools.combinations(found, 2):
                apart = one[3] <= other[1] or one[1] >= other[3] or one[4] <= other[2] or one[2] >= other[4]
                assert apart, (width, one, other)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_thousands_of_points_follow_a_slider(tmp_path: Path) -> None:
    """While it moves they only fade, and the address stays; when it rests, everything is as with few."""
    many(tmp_path, 510)
    with served(url_of(tmp_path), tmp_path) as visitor, Browser(1280, 900, timeout_s=60) as browser:
        browser.open(visitor.root + FRONT)
        browser.wait_for("document.querySelectorAll('#plot .scatterlayer path.point').length > 510")
        assert browser.evaluate("document.querySelectorAll('#trials tbody tr').length") == 300
        faded = browser.evaluate(
            "new Promise((done) => { const slider = document.getElementById('verdict'); slider.value = 1;"
            "slider.dispatchEvent(new Event('input', {bubbles: true}));"
            "requestAnimationFrame(() => requestAnimationFrame("
            "() => done([document.querySelectorAll('#plot path.out').length, location.search]))); })"
        )
        assert faded[0] > 200
        assert "verdict" not in faded[1]
        browser.wait_for("location.search.includes('verdict=imperceptible')")
        browser.wait_for("document.querySelectorAll('#plot path.out').length === 0")
        browser.evaluate("document.getElementById('reset').click()")
        browser.wait_for("document.getElementById('all-rows').textContent === 'Show all 517'")
        browser.evaluate("document.getElementById('all-rows').click()")
        assert browser.evaluate("document.querySelectorAll('#trials tbody tr').length") == 517
        assert browser.console == []
