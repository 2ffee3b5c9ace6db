"""The recipe is the job: the same components with the same arguments, whatever FLARE makes of them on the way."""

import json
from pathlib import Path

import pytest
from nvflare.app_common.filters.dxo_blocker import DXOBlocker

from fedmr.federation.render import job_names, read_num_rounds, read_task, rendered
from fedmr.flare.recipe import FedMRRecipe
from fedmr.utils.hocon import read_hocon
from simulator import ROOT

CONFIGS = ROOT / "app_configs"
SIDES = ("server", "client")
OF_ALL_KINDS = ("federated_stats", "mscan_dp", "mscan_fedavg", "mscan_fedavg_he_packed", "unet_flmrcm")


def exported(recipe: FedMRRecipe, folder: Path) -> tuple[dict, dict, dict]:
    """Meta, server's and client's config of the job that FLARE writes."""
    recipe.export(str(folder))
    job = folder / recipe.name
    return tuple(
        json.loads(p.read_text())
        for p in (job / "meta.json", *(job / f"app/config/config_fed_{s}.json" for s in SIDES))
    )


def normalised(config: dict) -> dict:
    """A config with the tasks of a chain in one order; FLARE takes them for a set."""
    for key in ("task_data_filters", "task_result_filters"):
        config[key] = [{**chain, "tasks": sorted(chain["tasks"])} for chain in config[key]]
    return config


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in OF_ALL_KINDS else pytest.mark.e2e) for n in job_names(CONFIGS)]
)
def test_the_recipe_makes_the_components_of_the_job(name, tmp_path):
    meta, server, client = exported(FedMRRecipe(name, configs=CONFIGS), tmp_path)
    job = ROOT / "jobs" / name
    assert meta == read_hocon(job / "meta.conf").as_plain_ordered_dict()
    for side, made in zip(SIDES, (server, client), strict=True):
        expected = read_hocon(job / f"app/config/config_fed_{side}.conf").as_plain_ordered_dict()
        assert normalised(made) == normalised(json.loads(json.dumps(expected)))
    files = {p.relative_to(tmp_path / name) for p in (tmp_path / name).rglob("*") if p.is_file()}
    assert {p.with_suffix("") for p in files} == {p.with_suffix("") for p in rendered(CONFIGS, name)}


def test_changes_reach_every_component_that_they_concern(tmp_path):
    recipe = FedMRRecipe(
        name="mine",
        num_rounds=3,
        task={"learning_rate": 5e-4, "network": {"channels": 8}},
        settings={"min_clients_per_round": 3},
        configs=CONFIGS,
    )
    meta, server, _ = exported(recipe, tmp_path)
    task = read_task(tmp_path / "mine")
    assert (task["learning_rate"], task["network"]["channels"], task["network"]["blocks"]) == (5e-4, 8, 4)
    assert server["components"][0]["args"]["model"]["args"] == task["network"]
    guard = server["task_result_filters"][0]["filters"][0]["args"]
    assert (guard["min_sites"], guard["limits"]["learning_rate"]) == (3, 5e-4)
    assert read_num_rounds(tmp_path / "mine") == 3
    assert meta["name"] == "mine"


def test_another_network_takes_only_scale_and_grid_of_the_job(tmp_path):
    exported(FedMRRecipe(task={"network": {"name": "srcnn"}}, configs=CONFIGS), tmp_path)
    assert read_task(tmp_path / "mscan_fedavg")["network"] == {"name": "srcnn", "scale": 2, "grid": "pixel0"}


def test_what_flare_adds_to_a_recipe_is_added(tmp_path):
    recipe = FedMRRecipe(configs=CONFIGS)
    recipe.add_client_output_filter(DXOBlocker(["WEIGHTS"]), tasks=["submit_model"])
    _, _, client = exported(recipe, tmp_path)
    assert [chain["tasks"] for chain in client["task_result_filters"]] == [["submit_model"]]
    assert len(client["components"]) == 3  # the job's own are still there


def test_a_job_for_sites_that_forbid_code_has_none(tmp_path):
    exported(FedMRRecipe(custom_code=False, configs=CONFIGS), tmp_path)
    assert not (tmp_path / "mscan_fedavg" / "app" / "custom").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"job": "mscan_fedavq"}, "jobs are .*mscan_fedavg"),
        ({"task": {"learning_rate": -1}}, "learning_rate"),
        ({"task": {"network": {"name": "nothing"}}}, "nothing"),
        ({"settings": {"num_round": 3}}, "has no num_round; it has .*num_rounds"),
    ],
)
def test_a_recipe_that_could_not_run_is_refused_when_it_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        FedMRRecipe(**arguments, configs=CONFIGS)
