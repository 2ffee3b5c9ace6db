"""What the report says of guard and filters, from the files that they and FLARE leave."""

import io
import json

import pytest
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from fedmr.privacy.ledger import LOCAL_RECORD
from fedmr.reports.protection import protection_tables
from fedmr.runs.protection import distances, epsilons
from fedmr.runs.records import REJECTIONS
from fedmr.runs.run import Run

SITES = ("site-1", "site-2")


@pytest.fixture
def run(tmp_path):
    """A simulated run of two sites in which nothing remarkable happened."""
    (tmp_path / "server" / "simulate_job" / "app_server").mkdir(parents=True)
    for site in SITES:
        (tmp_path / site / "simulate_job").mkdir(parents=True)
        stream(tmp_path, site, "val/psnr", [30.0])
    return tmp_path


def stream(run, site, tag, values, first=1):
    with SummaryWriter(str(run / "server" / "simulate_job" / "tb_events" / site)) as writer:
        for number, value in enumerate(values, start=first):
            writer.add_scalar(tag, value, number)


def keep(run, site, *pairs):
    rows = [{"filter": "F"} | ({"cosine": c, "norm_ratio": n} if c is not None else {}) for c, n in pairs]
    (run / site / "simulate_job" / LOCAL_RECORD).write_text("".join(json.dumps(row) + "\n" for row in rows))


def reject(run, *rows):
    records = [{"round": number, "site": site, "reason": reason, "norm": None} for number, site, reason in rows]
    path = run / "server" / "simulate_job" / REJECTIONS
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def shown(run):
    console = Console(file=io.StringIO(), width=100)
    for table in protection_tables(Run(run)):
        console.print(table)
    return console.file.getvalue()


def test_of_an_ordinary_run_there_is_nothing_to_show(run):
    assert protection_tables(Run(run)) == []
    assert (epsilons(Run(run).streams), distances(Run(run))) == ({}, {})


def test_every_rejection_is_shown_with_round_site_and_the_words_of_the_guard(run):
    reject(run, (0, "site-2", "'w' is not finite in 3 of 9 values"), (7, "[bold]site-1", "[/red] claims [1] steps"))
    text = shown(run)
    assert "0 │ site-2" in text
    assert "'w' is not finite in 3 of 9 values" in text
    assert "7 │ [bold]site-1 │ [/red] claims [1] steps" in text


def test_epsilons_of_a_site_of_slices_and_of_patients_stay_apart(run):
    stream(run, "site-1", "privacy/epsilon", [1.0, 2.5], first=4)  # after three releases in earlier jobs
    stream(run, "site-2", "privacy/epsilon_slice", [0.5])
    found = epsilons(Run(run).streams)
    assert found == {"site": {"site-1": {4: 1.0, 5: 2.5}}, "slice": {"site-2": {1: 0.5}}}
    text = shown(run)
    assert "epsilon per site ┃ epsilon per slice" in text
    assert "site-1 │              2.5 │                 -" in text
    assert "site-2 │                - │               0.5" in text


def test_the_distance_of_sent_from_true_updates_is_shown_where_the_run_holds_it(run):
    keep(run, "site-1", (0.5, 2.0), (0.7, 4.0), (0.9, 5.0))
    keep(run, "site-2", (None, None), (0.25, 8.0))  # of DP-SGD, when nobody was drawn
    assert distances(Run(run))["cosine"] == {"site-1": {0: 0.5, 1: 0.7, 2: 0.9}, "site-2": {1: 0.25}}
    text = shown(run)
    assert "site-1 │    0.7 │          4" in text
    assert "site-2 │   0.25 │          8" in text
