"""What is said of a scan beside a result: outside of the card's ranges, expected gain, departure of k-space."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fedmr.data.images import Image
from fedmr.inference.examination import SUFFIX, examine, say, write_record
from fedmr.inference.resolver import Options
from fedmr.inference.super_resolver import SuperResolver
from landmarks import blob, model

SHAPE = (24, 28, 6)
RANGES = {"voxel": [0.8, 1.2], "field_of_view": [20.0, 30.0], "thickness": [2.0, 5.0], "noise": [0.0, 0.05]}


def scan(spacing=(1.0, 1.0, 4.0), noise=0.0) -> Image:
    voxels = blob(SHAPE, (12, 14, 3), 6.0) + np.random.default_rng(0).normal(0, noise, SHAPE)
    return Image(voxels.astype(np.float32), np.diag([*spacing, 1.0]))


def resolver(*, trained=True, consistent=False, scale=2, **card) -> SuperResolver:
    opened = model("truncation", scale, trained=trained)
    known = {"ranges": RANGES, "contrasts": {"T1w": 3, "FLAIR": 2}}
    figures = {"model": {"psnr": 34.0}, "zero_filled": {"psnr": 32.5}, "gain_by_contrast": {"FLAIR": 0.9}}
    changed = opened.card | {"data": known, "metrics": figures} | card
    return SuperResolver(replace(opened, card=changed), Options(data_consistency=consistent))


def looked_at(image: Image, **more):
    made = resolver(**{key: more.pop(key) for key in [*more] if key != "contrast"})
    return examine(made, image, made(image)[0], **more)


def test_a_scan_like_those_of_the_training_gives_no_warning():
    found = looked_at(scan(), contrast="T1w")
    assert found.warnings == ()
    assert say([found]) == []


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (scan((3.0, 3.0, 4.0)), "voxel size"),
        (scan((0.3, 0.3, 4.0)), "field of view"),
        (scan((1.0, 1.0, 9.0)), "slice spacing"),
        (scan(noise=150.0), "noise"),
    ],
)
def test_what_is_outside_is_said_in_one_line(image, word):
    lines = say([looked_at(image)] * 3)
    assert len(lines) == 1
    assert lines[0].count(word) == 1


@pytest.mark.parametrize(("contrast", "gain"), [("T1w", 1.5), ("FLAIR", 0.9), ("", 1.5), ("T2w", 1.5)])
def test_the_expected_gain_is_that_of_the_contrast_where_the_card_tells(contrast, gain):
    found = looked_at(scan(), contrast=contrast)
    assert found.expected_gain == gain
    assert bool(found.warnings) is (contrast == "T2w")


def test_a_card_without_figures_and_ranges_promises_and_warns_of_nothing():
    found = looked_at(scan((9, 9, 9)), data={}, metrics={}, contrast="PDw")
    assert (found.warnings, found.expected_gain) == ((), None)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_an_untrained_network_departs_little_and_one_with_data_consistency_not_at_all(scale):
    trained = looked_at(scan(), scale=scale)
    untrained = looked_at(scan(), trained=False, scale=scale)
    consistent = looked_at(scan(), consistent=True, scale=scale)
    assert consistent.departure < 1e-5
    assert consistent.departure < untrained.departure < trained.departure


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 4.0), (4.0, 1.0, 1.0), (1.0, 4.0, 1.0)])
def test_the_slices_are_those_of_the_result_whatever_axis_they_lie_across(spacing):
    turned = np.moveaxis(scan().voxels, 2, spacing.index(4.0))
    found = looked_at(Image(np.ascontiguousarray(turned), np.diag([*spacing, 1.0])))
    assert found.departure == pytest.approx(looked_at(scan()).departure, rel=0.2)
    assert found.warnings == ()


@pytest.mark.parametrize("name", ["a.nii.gz", "a.NII", "a"])
def test_the_record_lies_beside_the_result_and_names_neither_patient_nor_path(tmp_path, name):
    made = resolver()
    path = write_record(tmp_path / name, made, [looked_at(scan())])
    assert path == tmp_path / f"a{SUFFIX}"
    record = json.loads(path.read_text())
    assert set(record) == {"fedmr", "scale", "network", "training", "data_consistency", "mean_over_flips", "volumes"}
    assert set(record["volumes"][0]) == {"warnings", "expected_gain", "departure"}
    assert str(tmp_path) not in path.read_text()
