"""Studies without a run: grid, checks, table of results, statistics. tests/e2e/test_study.py runs one."""

import csv
from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

from fedmr.metrics import METRICS
from fedmr.nets import build, count_parameters
from fedmr.study.files import StudyError, only_one, read_yaml
from fedmr.study.grid import read_study
from fedmr.study.results import FILE, Results, columns, read_rows
from fedmr.study.tables import difference, rows_of, seen, spread
from phantoms import write_site
from simulator import ROOT

CONFIGS = ROOT / "app_configs"
STUDIES = sorted((ROOT / "benchmarks" / "studies").glob("*.yaml"))
GRID = """
about: two axes
base:
  job: mscan_fedavg
  rounds: 4
  network: {channels: 8, blocks: 1}
  learning_rate: 1e-3
seeds: [0, 7]
baseline: joint
axes:
  attention:
    joint: {}
    none: {network: {attention: none}}
  scales:
    chain:
    parallel: {network: {scales: parallel}, rounds: 2, leave_out: [site-2]}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for number, site in enumerate(("site-1", "site-2"), start=1):
        write_site(root, site, seed=number)
    return root


@pytest.fixture
def read(data, tmp_path):
    def read(text):
        (tmp_path / "grid.yaml").write_text(text)
        return read_study(tmp_path / "grid.yaml", data=data, configs=CONFIGS)

    return read


def test_the_grid_is_every_combination_for_the_first_seed_and_then_for_the_next(read):
    study = read(GRID)
    arms = [("joint", "chain"), ("joint", "parallel"), ("none", "chain"), ("none", "parallel")]
    assert study.arms == arms
    assert [(cell.arm, cell.seed) for cell in study.cells] == [(arm, seed) for seed in (0, 7) for arm in arms]
    assert study.cells[5].name == "joint__parallel__seed-7"
    assert len({cell.name for cell in study.cells}) == len({cell.settings for cell in study.cells}) == 8


def test_a_cell_is_its_job_with_the_settings_of_its_variants(read):
    study = read(GRID)
    first, last = study.cells[0], study.cells[-1]
    assert first.task["network"] == {
        "name": "mscan", "scale": 2, "grid": "pixel0", "channels": 8, "blocks": 1, "seed": 0
    }  # fmt: skip
    assert last.task["network"] == first.task["network"] | {"attention": "none", "scales": "parallel", "seed": 7}
    assert (first.rounds, first.sites, first.unseen) == (4, ("site-1", "site-2"), ())
    assert (last.rounds, last.sites, last.unseen) == (2, ("site-1",), ("site-2",))
    assert first.task["learning_rate"] == 0.001, "1e-3 is a number"
    assert (first.task["seed"], last.task["seed"]) == (0, 7)
    assert first.parameters == count_parameters(build(**first.task["network"]))


def test_another_network_keeps_scale_and_grid_only(read):
    text = GRID.replace("{attention: none}", "{name: edsr, channels: 4, blocks: 1}")
    study = read(text.replace("network: {scales: parallel}, ", ""))
    edsr = next(cell for cell in study.cells if cell.arm == ("none", "chain"))
    assert edsr.task["network"] == {"scale": 2, "grid": "pixel0", "name": "edsr", "channels": 4, "blocks": 1, "seed": 0}


def test_a_variant_can_state_what_it_is_combined_with(read):
    text = GRID.replace("joint: {}", "joint: {only: {scales: [chain]}}")
    study = read(text)
    assert study.arms == [("joint", "chain"), ("none", "chain"), ("none", "parallel")]
    plain = {cell.name: cell.settings for cell in read(GRID).cells}
    assert all(plain[cell.name] == cell.settings for cell in study.cells), "a cell is none the less the same"


def test_a_site_left_out_is_the_target_where_the_algorithm_has_one(read):
    """It takes part in the job, to give latents, but is not trained on."""
    text = GRID.replace("{attention: none}", "{name: unet, channels: 2}").replace("scales: parallel", "pools: 3")
    text = text.replace("    joint: {}\n", "").replace("joint", "none").replace("mscan_fedavg", "unet_flmrcm")
    first, second = read(text.replace("  network: {channels: 8, blocks: 1}\n", "")).cells[:2]
    assert (second.sites, second.unseen, second.guests) == (("site-1",), ("site-2",), ("site-2",))
    assert second.task["algorithm"]["target_sites"] == ["site-2"]
    assert second.task["algorithm"]["train_target"] is False
    assert first.guests == (), "nobody is left out: the job's own target"
    assert first.task["algorithm"]["target_sites"] == ["site-4"]


def test_arms_of_one_variant_each_have_their_own_target(read):
    study = read("""
base: {job: unet_flmrcm, network: {channels: 2}}
baseline: light
axes:
  training:
    light: {algorithm: {name: flmrcm, target_sites: [site-1], weight: 0.1}}
  target:
    first: {leave_out: [site-1]}
    second: {leave_out: [site-2]}
""")
    found = {cell.arm[1]: cell.task["algorithm"]["target_sites"] for cell in study.cells}
    assert found == {"first": ["site-1"], "second": ["site-2"]}
    assert all(cell.guests == cell.unseen for cell in study.cells)


def test_an_arm_is_compared_with_the_baseline_of_its_own_other_variants(read):
    study = read(GRID)
    assert study.counterpart(("none", "parallel")) == ("joint", "parallel")
    study = read(GRID.replace("baseline: joint", "baseline: chain"))
    assert study.counterpart(("none", "parallel")) == ("none", "chain")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("baseline:", "base_line:", "base_line is unknown; known are about, axes, base"),
        ("learning_rate", "lr", "joint, chain: lr is unknown; known are .*learning_rate.*rounds"),
        ("attention: none", "name: unet3000", "none, chain: network 'unet3000' is unknown; known are .*mscan"),
        ("attention: none", "attention: some", "none, chain: MSCAN: attention is 'some'"),
        ("  job: mscan_fedavg\n", "", "no job is named; name one under base; there are .*mscan_fedavg"),
        ("mscan_fedavg", "mscan_fedavk", "job 'mscan_fedavk' is not in .*; there are .*mscan_fedavg"),
        ("mscan_fedavg", "federated_stats", "job 'federated_stats' does not train"),
        ("baseline: joint", "baseline: nobody", "baseline is 'nobody'; .*variants are joint, none, chain, parallel"),
        ("seeds: [0, 7]", "seeds: 3", "seeds is 3; it must be a list"),
        ("seeds: [0, 7]", "seeds: [0]\nequal: rounds", "equal is 'rounds'; known are steps, seconds"),
        (
            "axes:\n",
            "equal: seconds\naxes:\n  algorithm:\n    pulled: {job: mscan_ditto}\n",
            "pulled, joint, chain: equal seconds are measured of plain training, not of ditto",
        ),
        ("rounds: 4", "rounds: 0", "rounds is 0; it must be a number above 0"),
        ("rounds: 4", "rounds: 1", "joint, chain: rounds is 1; take 2 or more"),
        ("[site-2]", "[site-9]", r"leave_out is \['site-9'\]; it must be a list of sites of the data: site-1, site-2"),
        ("[site-2]", "[site-1, site-2]", "no site is left to train on"),
        ("  scales:", "  method:", "axis 'method' is the name of a column of the results"),
        ("joint: {}", "joint: {only: {scale: [chain]}}", r"joint: only is scale: \['chain'\]; it must be an axis"),
        ("joint: {}", "joint: {only: {scales: [chained]}}", r"only is scales: \['chained'\]; it must be an axis"),
        (
            "seeds: [0, 7]\nbaseline: joint\naxes:\n  attention:\n    joint: {}",
            "equal: seconds\nbaseline: joint\naxes:\n  attention:\n    joint: {only: {scales: [chain]}}",
            "equal seconds need every combination of variants",
        ),
        ("    none:", "    joint:", "'joint' stands twice"),
        ("    none:", "    off:", "axis 'attention': False is no text; put it in quotes"),
        ("    none:", "    a/b:", "'a/b' must be letters, digits"),
        ("axes:", "axes: {}\nrest:", "rest is unknown"),
        ("about: two axes", "about: [", "is not valid YAML"),
        ("learning_rate: 1e-3", "learning_rate: fast", "joint, chain: learning_rate is 'fast'; it must be a number"),
    ],
)
def test_a_mistake_in_a_study_is_named_with_its_file_before_anything_runs(read, old, new, message):
    assert old in GRID
    with pytest.raises(StudyError, match=rf"grid\.yaml.*{message}"):
        read(GRID.replace(old, new))


def test_a_study_that_is_not_there_is_named(data):
    with pytest.raises(StudyError, match=r"no\.yaml does not exist"):
        read_study(Path("no.yaml"), data=data, configs=CONFIGS)


def test_the_peers_are_the_same_at_equal_steps_and_at_equal_time():
    folder = ROOT / "benchmarks" / "studies"
    steps, seconds = (read_yaml(folder / f"peers_{name}.yaml") for name in ("steps", "seconds"))
    assert steps["axes"] == seconds["axes"]
    assert (steps.get("equal"), seconds["equal"]) == (None, "seconds")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_committed_studies_can_be_read(path, tmp_path):
    for number in range(1, 9):
        write_site(tmp_path, f"site-{number}", seed=number)
    study = read_study(path, data=tmp_path, configs=CONFIGS)
    assert study.about
    assert len({cell.seed for cell in study.cells}) == (1 if path.stem.endswith("_variants") else 3)


def result(cell, site="site-1", volume="v", method="global", seen=True, **figures):
    """A row as the runner makes it."""
    row = dict.fromkeys(columns(["attention", "scales"]), "0")
    row |= {"cell": cell.name, "attention": cell.arm[0], "scales": cell.arm[1], "seed": cell.seed}
    row |= {"site": site, "volume": volume, "method": method, "seen": seen, "settings": cell.settings}
    return row | dict.fromkeys(METRICS, 0.5) | {"psnr": 30.0} | figures


def test_the_table_does_not_depend_on_when_cells_were_done(read, tmp_path):
    cells = read(GRID).cells
    axes = ("attention", "scales")
    rows = {cell.name: [result(cell, psnr=30 + 0.1 * k, volume=v) for v in "ab"] for k, cell in enumerate(cells)}
    texts = []
    for name, order in (("once", cells), ("resumed", [cells[k] for k in (3, 0, 5, 1, 2, 7, 6, 4)])):
        (tmp_path / name).mkdir()
        for cell in order:
            results = Results(tmp_path / name, cells, axes)  # as in a new process
            assert cell.name not in results.done
            results.add(cell, rows[cell.name])
        assert Results(tmp_path / name, cells, axes).done == set(rows)
        texts.append((tmp_path / name / FILE).read_text())
    assert texts[0] == texts[1]
    assert [row["cell"] for row in read_rows(tmp_path / "once")] == [cell.name for cell in cells for _ in "ab"]
    assert len(list(tmp_path.glob("once/*"))) == 1, "nothing is left beside the table"


def test_rows_of_other_settings_are_refused_instead_of_mixed(read, tmp_path):
    cells = read(GRID).cells
    Results(tmp_path, cells, ("attention", "scales")).add(cells[0], [result(cells[0])])
    changed = [replace(cell, rounds=9) for cell in cells]
    with pytest.raises(StudyError, match=r"joint__chain__seed-0 with other settings .*delete its lines"):
        Results(tmp_path, changed, ("attention", "scales"))
    with pytest.raises(StudyError, match="which this study has not"):
        Results(tmp_path, cells[1:], ("attention", "scales"))
    with pytest.raises(StudyError, match="other columns"):
        Results(tmp_path, cells, ("attention",))


def test_a_longer_time_limit_does_not_make_a_cell_another_one(read):
    cell = read(GRID).cells[0]
    assert replace(cell, minutes=1.0).settings == cell.settings


def test_one_study_at_a_time_is_at_work_in_a_folder(tmp_path):
    with only_one(tmp_path), pytest.raises(StudyError, match="another `fedmr study` is at work"), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass


@pytest.fixture
def rows(read, tmp_path):
    """Two arms, two seeds; site-1 has two test volumes, site-2 one, site-3 is unseen. As they are read back."""
    cells = {(cell.arm[0], cell.seed): cell for cell in read(GRID).cells if cell.arm[1] == "chain"}
    psnr = {  # of site-1 a, site-1 b, site-2 a, site-3 a
        ("joint", 0): (30.0, 32.0, 40.0, 20.0),
        ("joint", 7): (31.0, 33.0, 40.0, 22.0),
        ("none", 0): (29.0, 32.5, 39.0, 20.5),
        ("none", 7): (29.0, 33.5, 39.0, 22.5),
    }
    places = [("site-1", "a", True), ("site-1", "b", True), ("site-2", "a", True), ("site-3", "a", False)]
    results = Results(tmp_path, list(cells.values()), ("attention", "scales"))
    for key, values in psnr.items():
        own = [result(cells[key], s, v, seen=k, psnr=p) for (s, v, k), p in zip(places, values, strict=True)]
        results.add(cells[key], [*own, result(cells[key], "site-1", "a", "zero_filled", psnr=1.0)])
    return read_rows(tmp_path)


def arm(rows, name):
    return rows_of(rows, (name, "chain"), ("attention", "scales"))


def test_the_mean_is_over_volumes_then_sites_then_seeds_and_the_spread_is_over_seeds(rows):
    value = spread(seen(arm(rows, "joint")), "psnr")
    assert value.mean == pytest.approx((35.5 + 36.0) / 2)
    assert value.deviation == pytest.approx(0.5 / sqrt(2))
    assert value.text(2) == "35.75 ± 0.35"
    assert spread(seen(arm(rows, "joint"), False), "psnr").mean == 21.0
    assert spread([row for row in seen(arm(rows, "none")) if row["seed"] == "0"], "psnr").text(1) == "34.9"
    assert spread([], "psnr") is None


def test_differences_are_paired_by_volume_with_students_interval(rows):
    value = difference(seen(arm(rows, "none")), seen(arm(rows, "joint")), "psnr")
    per_volume = np.array([-1.5, 0.5, -1.0])  # means over two seeds
    assert value.mean == pytest.approx(per_volume.mean())
    assert value.half == pytest.approx(4.302653 * per_volume.std(ddof=1) / sqrt(3), rel=1e-6)  # t table, 2 degrees
    assert (value.volumes, value.better) == (3, 1)
    assert value.text(2) == "-0.67 ± 2.59 (1 of 3)"
    unseen = difference(seen(arm(rows, "none"), False), seen(arm(rows, "joint"), False), "psnr")
    assert (unseen.mean, unseen.half, unseen.volumes, unseen.better) == (0.5, None, 1, 1)
    assert difference(arm(rows, "none"), [], "psnr") is None


def test_a_seed_or_volume_that_only_one_arm_has_does_not_count(rows):
    half = [row for row in arm(rows, "joint") if row["seed"] == "0" or row["site"] == "site-2"]
    value = difference(seen(arm(rows, "none")), seen(half), "psnr")
    assert value.mean == pytest.approx((-1.0 + 0.5 - 1.0) / 3)


def test_models_of_several_sites_on_one_unseen_volume_count_as_their_mean(rows):
    extra = [dict(row, psnr="24.0", model_of="site-2") for row in seen(arm(rows, "joint"), False)]
    value = spread([*seen(arm(rows, "joint"), False), *extra], "psnr")
    assert value.mean == pytest.approx((22.0 + 23.0) / 2)


def test_the_table_is_csv_that_others_can_read(rows, tmp_path):
    with (tmp_path / FILE).open(newline="") as handle:
        head = next(csv.reader(handle))
    assert head[:4] == ["cell", "attention", "scales", "seed"]
    assert set(METRICS) < set(head)
    assert len(rows) == 20
