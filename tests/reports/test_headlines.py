"""What the page of a run says beside its figures, and what can be taken from it."""

import json
import re
from base64 import b64decode

import pytest

from fedmr.runs.records import FINAL_MODEL
from fedmr.runs.run import Run
from pages import page, words
from runs import SITES, write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "w")


def change_results(run, edit):
    path = run / "server" / "simulate_job" / "cross_site_val" / "cross_val_results.json"
    results = json.loads(path.read_text())
    edit(results)
    path.write_text(json.dumps(results))


def test_every_headline_says_of_how_many_scans_and_how_far_sites_differ(run):
    change_results(run, lambda results: results["site-2"][FINAL_MODEL]["model"].update(psnr=30.5))
    text = words(page(run))
    assert "PSNR 31.83 dB zero-filled 31.00; mean of 3 sites, n = 6 scans" in text
    assert "Gain by site \N{MINUS SIGN}0.50 to +1.50 dB standard deviation over 3 sites 1.15 dB" in text
    change_results(run, lambda results: [results.pop(site) for site in SITES[1:]])
    text = words(page(run))
    assert "mean of 1 site, n = 2 scans" in text
    assert "Gain by site" not in text


def test_rounds_are_folded_away_and_foreground_is_shown_where_sites_sent_it(run):
    assert "PSNR of foreground" not in words(page(run))

    def add(results):
        for site in results.values():
            for row in site[FINAL_MODEL].values():
                if isinstance(row, dict):
                    row["psnr_foreground"] = 20.0

    change_results(run, add)
    text = page(run)
    assert "PSNR of foreground dB" in words(text)
    folded = text[text.index("<details>") : text.index("</details>")]
    assert "Every round: 2 rounds, 18.0 s in all" in words(folded)
    assert "sent by sites" in folded


def test_figures_can_be_taken_away_as_they_are(run):
    uris = dict(re.findall(r'<a download="([^"]+)" href="data:[^;]+;base64,([^"]+)"', page(run)))
    assert json.loads(b64decode(uris["figures.json"])) == Run(run).figures()
    head, *rows = b64decode(uris["figures.csv"]).decode().splitlines()
    assert head == "site,test_volumes,method,metric,value"
    assert "site-2,2,model,psnr,32.5" in rows


def test_words_are_those_of_a_reader_who_does_not_know_flare(run):
    text = words(page(run)).lower()
    assert not [word for word in ("housekeeping", "per turn", "turn runs") if word in text]


def test_whatever_scrolls_can_be_reached_by_the_keyboard_and_has_a_name(run):
    for opening in re.findall(r'<div class="scroll[^>]*>', page(run)):
        assert 'tabindex="0" role="region" aria-label="' in opening
