import io
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as Picture
from rich.console import Console

from fedmr.data.datalist import read_datalist
from fedmr.data.images import Image
from fedmr.data.statistics import BRIGHTEST, INTENSITY, PER_PATIENT, PER_VOLUME, Sample, measure, volume_features
from fedmr.reports.statistics import show_statistics
from fedmr.runs.checks import RunError
from fedmr.runs.run import STATISTICS, Run
from fedmr.runs.statistics import shift
from fedmr.utils.errors import DataError
from phantoms import phantom

JOB = Path(__file__).parents[2] / "jobs" / "federated_stats"
ALL = {"all": {}}
EDGES = np.linspace(0, 1250, 51)
RECORDS = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20)


def foreground(path: Path) -> tuple[np.ndarray, float]:
    voxels = np.maximum(np.asarray(nib.load(path).dataobj, dtype=np.float32), 0)
    level = np.percentile(voxels, 99.9)
    thousandths = np.minimum(np.rint(voxels * 1000 / level), BRIGHTEST)
    return thousandths[thousandths > 50], level


def test_a_sites_statistics_are_those_that_numpy_computes_by_hand(site):
    paths = [site / v["image"] for v in read_datalist(site)["volumes"]]
    voxels, levels = zip(*map(foreground, paths), strict=True)
    expected = {
        INTENSITY: np.concatenate(voxels),
        "white_level": np.array(levels),
        "voxel_size": np.ones(3),
        "slice_spacing": np.full(3, 5.0),
        "slices": np.full(3, 5.0),
        "rows": np.full(3, 48.0),
        "columns": np.full(3, 45.0),
        PER_PATIENT: np.ones(3),
    }
    samples = measure(site, ALL)["all"]
    assert samples.keys() == expected.keys()
    for name, records in expected.items():
        sample = samples[name]
        assert sample.count == len(records), name
        assert sample.total == pytest.approx(records.sum())
        assert (sample.mean, sample.stddev) == pytest.approx((records.mean(), records.std(ddof=1)))
        assert sample.extremes() == (records.min(), records.max())
    edges, counts = samples[INTENSITY].histogram(50, 0, 1250)
    assert np.array_equal(edges, EDGES)
    assert np.array_equal(counts, np.histogram(expected[INTENSITY].clip(0, 1250), EDGES)[0])


@given(RECORDS)
def test_a_table_of_counts_is_the_same_sample_as_single_records(records):
    values, times = np.unique(np.array(records), return_counts=True)
    single, counted = Sample.of(records), Sample(values, times)
    for name in ("count", "total", "mean", "stddev"):
        assert getattr(counted, name) == pytest.approx(getattr(single, name), abs=1e-9)
    assert counted.extremes() == single.extremes()
    assert np.array_equal(counted.histogram(7, -50, 50)[1], single.histogram(7, -50, 50)[1])


@given(st.lists(RECORDS, min_size=1, max_size=4), st.integers(1, 12))
def test_parts_add_up_to_the_pooled_variance_and_histogram(parts, bins):
    pooled = np.concatenate(parts)
    samples = [Sample.of(part) for part in parts]
    variance = sum(s.variance(float(pooled.mean()), len(pooled)) for s in samples)
    assert variance == pytest.approx(pooled.var(ddof=1) if len(pooled) > 1 else 0, abs=1e-6)
    counts = sum(s.histogram(bins, -60, 60)[1] for s in samples)
    assert counts.sum() == len(pooled), "records outside the range are in the outermost bins"
    assert np.array_equal(counts, Sample.of(pooled).histogram(bins, -60, 60)[1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_and_voxel_sizes_follow_the_slice_axis(axis):
    sizes = np.array([0.8, 0.9, 0.8])
    sizes[axis] = 3.0
    image = Image(np.moveaxis(phantom(1), 2, axis), np.diag([*sizes, 1.0]))
    _, row = volume_features(image)
    assert row["slice_spacing"] == 3.0
    assert row["voxel_size"] == pytest.approx(np.delete(sizes, axis).mean())
    assert (row["slices"], row["rows"], row["columns"]) == (5, 48, 45)


@settings(deadline=None)
@given(st.integers(-3, 8))
def test_intensities_do_not_depend_on_the_scanners_unit(power):
    image = Image(phantom(1).astype(np.float32), np.diag([1.0, 1, 5, 1]))
    scaled = Image(image.voxels * 2.0**power, image.affine)
    (counts, row), (scaled_counts, scaled_row) = volume_features(image), volume_features(scaled)
    assert np.array_equal(counts, scaled_counts)
    assert scaled_row["white_level"] == pytest.approx(row["white_level"] * 2.0**power)


def test_a_voxel_of_any_brightness_counts_as_the_brightest():
    voxels = phantom(1).astype(np.float32)
    voxels[20, 20, 2] = 1e30
    counts, row = volume_features(Image(voxels, np.diag([1.0, 1, 5, 1])))
    assert counts.shape == (BRIGHTEST + 1,)
    assert counts[BRIGHTEST] == 1
    assert row["white_level"] < 2000


def edit(site: Path, **changes: list[str]) -> None:
    datalist = read_datalist(site)
    for key, values in changes.items():
        for entry, value in zip(datalist["volumes"], values, strict=True):
            entry[key] = value
    (site / "datalist.json").write_text(json.dumps(datalist))


def test_patients_are_counted_apart_from_volumes(site):
    edit(site, patient=["a", "a", "b"])
    samples = measure(site, ALL)["all"]
    assert (samples[PER_PATIENT].count, samples["slices"].count) == (2, 3)
    assert samples[PER_PATIENT].mean == 1.5


def test_data_sets_are_chosen_by_split_and_contrast(site):
    edit(site, contrast=["T1w", "T2w", "T1w"])
    data_sets = {"t2": {"contrasts": ["T2w"]}, "rest": {"contrasts": ["T1w", "PDw"], "splits": ["train", "test"]}}
    samples = measure(site, data_sets | {"none": {"contrasts": ["FLAIR"]}})
    assert {name: features["slices"].count for name, features in samples.items()} == {"t2": 1, "rest": 2, "none": 0}
    assert all(sample.count == 0 and sample.mean == 0 for sample in samples["none"].values())


@pytest.mark.parametrize(
    ("data_sets", "message"),
    [
        ({"all": {}, "train": {"splits": ["train"]}}, "all, train share volumes"),
        ({"all": {"splits": ["training"]}}, "training is unknown"),
        ({"all": {"contrast": ["T1w"]}}, "contrast is unknown"),
    ],
)
def test_data_sets_that_overlap_or_are_misspelt_are_refused(site, data_sets, message):
    with pytest.raises(ValueError, match=message):
        measure(site, data_sets)


def test_a_volume_that_cannot_be_read_is_named(site):
    (site / "sub-1" / "anat" / "sub-1_T1w.nii.gz").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"sub-1_T1w\.nii\.gz cannot be read"):
        measure(site, ALL)


HISTOGRAMS = arrays(np.int64, 8, elements=st.integers(0, 1000)).filter(np.any)


@settings(deadline=None)  # the first call imports scipy
@given(HISTOGRAMS, HISTOGRAMS)
def test_the_shift_is_lins_divergence(first, second):
    p, q = first / first.sum(), second / second.sum()

    def entropy(x):
        return -(x[x > 0] * np.log2(x[x > 0])).sum()

    expected = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    assert shift(first, second) == pytest.approx(expected, abs=1e-9)
    assert shift(first, second) == pytest.approx(shift(second, first), abs=1e-12)


def test_the_shift_is_0_for_equal_and_1_for_disjoint_histograms():
    assert shift([1, 2, 0], [10, 20, 0]) == pytest.approx(0, abs=1e-12)
    assert shift([1, 2, 0], [0, 0, 5]) == pytest.approx(1)


def raw_result(patients: dict[str, int]) -> dict:
    """What FLARE's server writes; a site with 0 patients is hidden."""
    shown = [*(s for s in patients if patients[s]), *(["Global"] if any(patients.values()) else [])]
    counts = patients | {"Global": sum(patients.values())}
    raw = {}
    for name in (INTENSITY, *PER_VOLUME, PER_PATIENT):
        raw[name] = {"count": {site: {"all": count} for site, count in counts.items()}}
        mean = 2.0 if name in ("voxel_size", "slice_spacing") else 200.0
        raw[name]["mean"] = {site: {"all": mean} for site in shown}
        raw[name]["stddev"] = {site: {"all": mean / 10} for site in shown}
        raw[name]["histogram"] = {s: {"all": [[0, 500, counts[s]], [500, 1250, 3 * len(s)]]} for s in shown}
    return raw


@pytest.fixture
def run(tmp_path):
    """A finished run's folder, with the statistics that its argument states."""

    def make(raw: dict, sites=("site-1", "site-2", "site-3")) -> Path:
        folder = tmp_path / "w" / "server" / "simulate_job"
        shutil.copytree(JOB / "app", folder / "app_server")
        (folder / "meta.json").write_text(json.dumps({"job_clients": [{"name": s} for s in sites]}))
        (folder / STATISTICS).parent.mkdir()
        (folder / STATISTICS).write_text(json.dumps(raw))
        return tmp_path / "w"

    return make


def printed(run: Path, **files: Path) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    show_statistics(Run(run), console, **files)
    return console.export_text()


def test_table_figures_and_plot_show_every_site_and_say_which_are_hidden(run, tmp_path):
    folder = run(raw_result({"site-1": 6, "site-2": 0, "site-3": 9}))
    assert Run(folder).is_statistics
    text = printed(folder, json_file=tmp_path / "f.json", picture=tmp_path / "p.png")
    rows = {line[:10].strip(): line for line in text.splitlines()}
    assert "hidden" in rows["site-2"]
    assert "200±20" in rows["site-1"]
    assert "200x200" in rows["all sites"]
    assert "fewer than 5 patients" in text
    assert "…" not in text, "80 columns hold every cell"
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures == Run(folder).statistics
    assert figures["data_sets"]["all"]["sites"]["site-2"] is None
    assert figures["data_sets"]["all"]["edges"] == [0, 500, 1250]
    assert figures["data_sets"]["all"]["all sites"]["patients"] == 15
    assert Picture.open(tmp_path / "p.png").size[0] > 1000


def test_a_run_with_every_site_hidden_has_a_table_but_no_plot(run, tmp_path):
    folder = run(raw_result(dict.fromkeys(("site-1", "site-2", "site-3"), 0)))
    assert printed(folder).count("hidden") == 5
    with pytest.raises(RunError, match="none has 5 patients"):
        printed(folder, picture=tmp_path / "p.png")


def test_a_missing_site_or_figure_is_an_error(run):
    raw = raw_result({"site-1": 6, "site-2": 7})
    folder = run(raw)
    with pytest.raises(RunError, match="site-3"):
        assert Run(folder).statistics
    shutil.rmtree(folder)
    del raw["slices"]["stddev"]
    with pytest.raises(RunError, match="stddev"):
        assert Run(run(raw, sites=("site-1", "site-2"))).statistics


def test_a_run_that_trained_is_no_statistics(tmp_path):
    (tmp_path / "app_server").mkdir()
    assert not Run(tmp_path).is_statistics
