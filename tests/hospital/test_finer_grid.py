"""`prepare` crops scans on a grid finer than the acquired, `preflight` and `infer` say so."""

from dataclasses import replace

import numpy as np
import pytest

from fedmr.checkpoints.model_file import save_model
from fedmr.data.datalist import read_datalist
from fedmr.hospital.preflight import data
from fedmr.hospital.preflight.site import read_site
from fedmr.hospital.prepare import prepare
from fedmr.inference.infer import infer
from hospital_files import ONE, write
from landmarks import model
from scanner import filled, head


def stored(voxels) -> np.ndarray:
    return np.rint(voxels).astype(np.int16)


@pytest.fixture
def source(tmp_path):
    """Three patients; a second scan of the first is filled up from 112 to 168 lines."""
    for p in range(3):
        write(tmp_path / "in" / f"P{p}" / "T1.nii.gz", stored(np.abs(head(seed=p))))
    write(tmp_path / "in" / "P0" / "T2.nii.gz", stored(filled(head(seed=5), (128, 168, 6))))
    return tmp_path / "in"


@pytest.mark.parametrize("keep", [False, True])
def test_it_is_cropped_or_kept_and_the_datalist_and_preflight_say_so(source, tmp_path, task, keep):
    outcome = prepare(source, site="s", out=tmp_path / "out", options=replace(ONE, keep_grid=keep))
    (finer,) = [volume for volume in outcome.volumes if "grid" in volume]
    grid = finer["grid"]
    assert finer["contrast"] == "T2w"
    assert (grid["stored"], grid["kept"], grid["evidence"]) == ([128, 168, 6], keep, "spectrum")
    assert finer["shape"] == (grid["stored"] if keep else grid["acquired"])
    assert 112 <= grid["acquired"][1] <= 124
    assert [("--keep-grid" in note, "k-space was cropped" in note) for note in outcome.notes] == [(keep, not keep)]
    site = read_site(tmp_path / "out" / "s", task, read_datalist(tmp_path / "out" / "s"), lambda *_: None)
    assert data.resolution(site).status == ("warn" if keep else "pass")


def test_another_choice_prepares_anew(source, tmp_path):
    shapes = []
    for keep in (False, True, True):
        outcome = prepare(source, site="s", out=tmp_path / "out", options=replace(ONE, keep_grid=keep))
        shapes.append((outcome.kept, max(volume["shape"][1] for volume in outcome.volumes)))
    assert [kept for kept, _ in shapes] == [0, 0, 4]
    assert shapes[0][1] < shapes[1][1] == shapes[2][1] == 168


def test_infer_says_that_the_detail_was_never_measured(source, tmp_path):
    save_model(tmp_path / "m" / "model.pt", model())
    outcome = infer(tmp_path / "m" / "model.pt", source, tmp_path / "out")
    assert len(outcome.written) == 4
    assert [("P0/T2" in note, "finer than the acquired" in note) for note in outcome.notes] == [(True, True)]
