"""The page of whole federations: FLARE's own logs and statistics are what the page reads."""

import re

import pytest

from browser import CHROMIUM, browser
from fedmr.reports.html import write_html
from fedmr.runs.run import Run
from simulator import ROUNDS, SITES

pytestmark = pytest.mark.e2e


def test_log_and_statistics_of_a_run_say_when_and_how_much(federation):
    log = Run(federation).log
    assert list(log.rounds) == list(range(ROUNDS))
    for phase in log.rounds.values():
        assert set(phase.turns) == set(SITES)
        assert max(phase.turns.values()) < phase.seconds
        assert phase.up > len(SITES) * 13_000 < phase.down * 2, "13 kB of weights cross twice per site"
    assert log.training_seconds < (log.last - log.first).total_seconds()
    assert all(len(Run(federation).step_times(site)) == ROUNDS for site in SITES)
    traffic = Run(federation).traffic
    assert {"tasks", "results", "curves"} < set(traffic)
    for direction in ("up", "down"):
        logged = sum(getattr(phase, direction) for phase in [*log.rounds.values(), log.test])
        assert logged < sum(row[direction] for row in traffic.values())
    streamed = sum(stream.picture_bytes for stream in Run(federation).streams.values())
    assert 0 < streamed < sum(phase.up for phase in log.rounds.values())


def test_the_page_of_a_run_holds_its_figures_and_opens_in_a_browser(federation, tmp_path):
    write_html(Run(federation), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "incomplete" not in text
    for site, row in Run(federation).figures()["sites"].items():
        assert re.search(rf">{site}</th>.*?>{row['model']['psnr']:.2f}</td>", text, re.DOTALL)
    if CHROMIUM is None:
        pytest.skip("no Chromium to open the page in")
    with browser() as view:
        view.open(tmp_path / "report.html", width=400)
        assert view.evaluate("document.documentElement.scrollWidth") == 400
        assert view.problems == []
