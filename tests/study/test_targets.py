"""What a study's report says of sites that were left out of training in turn; without a run."""

import numpy as np
import pytest
from PIL import Image

from fedmr.metrics import METRICS
from fedmr.study.alignment import alignment_table, draw_alignment, read_alignments
from fedmr.study.results import LATENTS
from fedmr.study.targets import find_targets, target_tables

SITES = ("site-1", "site-2", "site-3")
PLAN = {"axes": {"training": ["alone", "shared", "aligned"], "target": ["none", *SITES]}, "baseline": "shared"}
WORTH = {"shared": 30.0, "aligned": 31.0}
NONE = "\N{EN DASH}"


def row(training, target, site, psnr, *, seed, seen, by="global"):
    """As it is read back."""
    arm = {"cell": f"{training}__{target}__seed-{seed}", "training": training, "target": target, "seed": str(seed)}
    result = {"method": by, "site": site, "seen": str(seen), "volume": f"v of {site}"}
    return arm | result | dict.fromkeys(METRICS, "0.5") | {"psnr": str(psnr)}


@pytest.fixture
def rows():
    """Two seeds, worth 2 dB to all but sites alone; a site is worth 10 dB times its number."""
    found = []
    for seed in (0, 1):
        for number, site in enumerate(SITES, start=1):
            for other in SITES:
                by, value = ("local", 50) if other == site else ("elsewhere", 20 + 10 * number + int(other[-1]))
                found.append(row("alone", "none", site, value, seed=seed, by=by, seen=other == site))
            for training, base in WORTH.items():
                value = base + 10 * number + 2 * seed
                found.append(row(training, site, site, value, seed=seed, seen=False))
                found += [row(training, site, other, 60, seed=seed, seen=True) for other in SITES if other != site]
                found.append(row(training, site, site, 10 * number, seed=seed, by="zero_filled", seen=False))
    return found


def test_every_method_is_shown_at_every_site_that_it_was_not_trained_on(rows):
    text = target_tables(find_targets(rows, PLAN))
    for line in (
        "| PSNR (dB) | site-1 | site-2 | site-3 | mean |",
        "| zero-filled | 10.00 | 20.00 | 30.00 | 20.00 |",
        "| alone | 32.50 ± 0.00 | 42.00 ± 0.00 | 51.50 ± 0.00 | 42.00 ± 0.00 |",
        "| shared | 41.00 ± 1.41 | 51.00 ± 1.41 | 61.00 ± 1.41 | 51.00 ± 1.41 |",
        "| aligned | 42.00 ± 1.41 | 52.00 ± 1.41 | 62.00 ± 1.41 | 52.00 ± 1.41 |",
        "| aligned | +1.00 (1 of 1) | +1.00 (1 of 1) | +1.00 (1 of 1) | +1.00 ± 0.00 (3 of 3) |",
        "| NMSE |",
    ):
        assert line in text, line
    assert "| shared | +" not in text, "the baseline is not compared with itself"


def test_a_mean_over_some_of_the_sites_only_is_not_shown(rows):
    some = [one for one in rows if (one["training"], one["target"]) != ("aligned", "site-2")]
    text = target_tables(find_targets(some, PLAN))
    assert f"| aligned | 42.00 ± 1.41 | {NONE} | 62.00 ± 1.41 | {NONE} |" in text
    some = [one for one in rows if one["cell"] != "aligned__site-2__seed-1"]
    text = target_tables(find_targets(some, PLAN))
    assert f"| aligned | 42.00 ± 1.41 | 51.00 | 62.00 ± 1.41 | {NONE} |" in text, (
        "the seeds would differ in their sites"
    )


def test_a_study_without_several_sites_left_out_has_no_targets(rows):
    assert find_targets([one for one in rows if one["site"] == "site-1"], PLAN) is None
    twice = [*rows, *(one | {"cell": "another arm"} for one in rows)]
    assert find_targets(twice, PLAN) is None, "it would mix arms"


def test_latents_are_classified_and_drawn_of_the_cells_that_have_them(rows, tmp_path):
    rng = np.random.default_rng(0)
    for training, distance in (("shared", 10), ("aligned", 0)):
        for site in SITES:
            for seed in (0, 1):
                folder = tmp_path / "cells" / f"{training}__{site}__seed-{seed}"
                folder.mkdir(parents=True)
                names = [f"{split}:{name}" for split in ("train", "test") for name in SITES]
                points = {n: rng.normal(size=(300, 4)) + distance * int(n[-1]) for n in names}
                np.savez(folder / LATENTS, **{n: p.astype(np.float16) for n, p in points.items()})
    targets = find_targets(rows, PLAN)
    found = read_alignments(targets, tmp_path)
    assert len(found) == 2 * 3 * 2
    assert {name: points.shape for name, points in found[0].test.items()} == dict.fromkeys(SITES, (300, 4))
    text = alignment_table(found, targets.names)
    assert "| shared | 100 ± 0 | 100 ± 0 | 100 ± 0 | 100 ± 0 |" in text
    aligned = next(line for line in text.splitlines() if line.startswith("| aligned"))
    values = [float(cell.split(" ±")[0]) for cell in aligned.split("|")[2:6]]
    assert values == pytest.approx([50, 50, 50, 33], abs=6)
    assert "which of the 3 sites, chance 33 %" in text
    assert "seed 0" in draw_alignment(found, tmp_path / "latents.png")
    assert Image.open(tmp_path / "latents.png").size[0] > 700


def test_a_study_whose_cells_have_no_latents_has_neither(rows, tmp_path):
    targets = find_targets(rows, PLAN)
    assert read_alignments(targets, tmp_path) == []
    assert alignment_table([], targets.names) == ""
    assert draw_alignment([], tmp_path / "latents.png") == ""
    assert list(tmp_path.iterdir()) == []
