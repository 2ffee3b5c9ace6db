"""Real scans of four hospitals, where they are at hand (never in the repository)."""

from pathlib import Path

import pytest

from fedmr.data.datalist import read_datalist
from fedmr.hospital.prepare import Options, prepare
from fedmr.training.standalone import evaluate_sites, train_pooled

SOURCE = Path(__file__).parents[3] / "shared" / "data"
CONTRASTS = {"site-1": "T2w", "site-2": "FLAIR", "site-3": "T1w", "site-4": "T1w"}

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not (SOURCE / "split.csv").is_file(), reason="no real scans in ../shared/data"),
]


def test_a_real_hospital_is_prepared_trained_on_and_evaluated(tiny_job, tmp_path):
    for site, contrast in CONTRASTS.items():
        options = Options(split_file=SOURCE / "split.csv")
        outcome = prepare(SOURCE / site, site=site, out=tmp_path, options=options)
        assert outcome.problems == []
        datalist = read_datalist(outcome.datalist.parent)
        assert {v["split"] for v in datalist["volumes"]} == {"train", "val", "test"}
        assert {v["contrast"] for v in datalist["volumes"]} == {contrast}
    model = train_pooled(tmp_path, tmp_path / "out", job=tiny_job, sites=["site-3"], rounds=1, say=lambda _: None)
    row = evaluate_sites(model, tmp_path / "site-3")["sites"]["site-3"]
    # 1.46 dB on this scan; interpolation off the grid would lose 2-3 dB more
    assert 1.0 < row["zero_filled"]["psnr"] - row["interpolated"]["psnr"] < 1.8
    assert row["model"]["psnr"] > row["interpolated"]["psnr"] - 0.5
