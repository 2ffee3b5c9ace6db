import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from fedmr.audit.leakage import Audit, audit, best_match, super_resolution_task
from fedmr.audit.report import table, write
from fedmr.flare.protections import protections
from fedmr.privacy.mechanism import gaussian_mechanism
from fedmr.tasks.super_resolution import SuperResolutionTask
from phantoms import write_site

pytestmark = pytest.mark.e2e  # whole attacks


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Audit:
    network = {"name": "mscan", "scale": 2, "channels": 16, "blocks": 2, "seed": 0}
    task = SuperResolutionTask(network=network, batch_size=4, patch_size=12, patches_per_slice=4, warmup_steps=2)
    site = write_site(tmp_path_factory.mktemp("data"), "site-1", seed=1)
    shields = {"identity": lambda update, steps: update, "noise": lambda u, steps: gaussian_mechanism(u, 1.0, 1.0)}
    return audit(site, task, protections=shields, iterations=2)


def test_the_worst_case_is_recovered_and_noise_prevents_it(found):
    for sent in ("1 patch, 1 step of SGD", "1 patch, 1 step of Adam"):
        rows = {r.protection: r for r in found.rows if r.sent == sent and r.attacker == "hostile server"}
        assert rows["none"].psnr > 30
        assert rows["identity"].psnr == pytest.approx(rows["none"].psnr, abs=1)
        assert rows["none"].recognisable
        assert not rows["noise"].recognisable


def test_the_mean_of_sites_hides_more_than_one_site_shows(found):
    alone = next(r for r in found.rows if r.sent == "1 patch, 1 step of Adam" and r.protection == "none")
    together = next(r for r in found.rows if r.sent.startswith("mean of"))
    assert together.psnr < alone.psnr - 10


def test_table_figures_and_picture_hold_every_row(found, tmp_path):
    files = write(found, tmp_path / "out")
    figures = json.loads(files[0].read_text())
    assert [row["psnr"] for row in figures["inversion"]] == [row.psnr for row in found.rows]
    assert figures["membership"] == found.membership
    assert table(found).row_count == len(found.rows) + len({(row.attacker, row.sent) for row in found.rows})
    assert all(f"| {row.sent} | {row.protection} |" in files[1].read_text() for row in found.rows)
    with Image.open(files[2]) as picture:
        assert picture.width > 1000


def test_the_best_match_is_the_nearest_pair():
    private = torch.stack([torch.full((1, 12, 12), v) for v in (0.2, 0.9)])
    row = best_match("a", "b", "c", private, [torch.full((1, 1, 12, 12), v) for v in (0.5, 0.85)])
    assert (float(row.private.max()), float(row.recovered.max())) == pytest.approx((0.9, 0.85))


PARAMETERS = {"head.weight": 50, "body.0.weight": 100, "tail.weight": 50}


def test_an_excluded_layer_is_not_sent_and_all_others_are():
    update = torch.ones(200, dtype=torch.float64).numpy()
    sent = protections(PARAMETERS)["body excluded"](update, 1)
    assert (sent[50:150] == 0).all()
    assert sent.sum() == 100


@pytest.mark.parametrize("name", protections(PARAMETERS))
def test_a_protection_keeps_the_size_of_the_update_and_no_number_that_is_not_finite(name):
    update = torch.linspace(-1e-4, 1e-4, 200, dtype=torch.float64).numpy()
    sent = protections(PARAMETERS)[name](update.copy(), 1)
    assert sent.shape == update.shape
    assert torch.isfinite(torch.from_numpy(sent)).all()


def test_a_task_that_the_attacks_are_not_made_for_is_refused(site, task):
    with pytest.raises(ValueError, match="MSCAN, Adam and an L1 loss"):
        audit(site, replace(task, optimizer="rmsprop"), protections={})
    with pytest.raises(FileNotFoundError, match="nowhere is no job"):
        super_resolution_task(Path("nowhere"))
