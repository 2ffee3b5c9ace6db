"""A job without code can have FLARE build nothing but components, networks, losses and optimisers."""

import importlib
import json

import pytest
import torch
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer

from fedmr import nets
from fedmr.federation.allow_list import ALLOWED, checked_classes, class_allow_list
from fedmr.federation.kits import fill_kit
from fedmr.federation.render import CLIENT_CONFIG, SERVER_CONFIG
from fedmr.utils.hocon import read_hocon
from kits import blank_kit
from simulator import ROOT

BASES = (FLComponent, torch.nn.Module, torch.optim.Optimizer)
COMMANDS = [
    "fedmr.cli.main.app",
    "fedmr.cli.poc.provision",
    "fedmr.federation.kits.provision",
    "fedmr.federation.processes.subprocess.run",
    "fedmr.federation.kits.subprocess.run",
    "fedmr.study.runner.run",
    "fedmr.nets.torch.hub.load",
    "fedmr",
    "fedmr.",
    "subprocess.run",
    "os.system",
    "nvflare.app_common.logging.job_log_streamer.JobLogStreamer",
    "nvflare.private.fed.app.simulator.simulator_runner.SimulatorRunner",
]


@pytest.fixture
def authorizer(tmp_path):
    """FLARE's own checker under the resources of a filled kit: a function of a class path."""
    kit = blank_kit(tmp_path / "site-1")
    fill_kit(kit, forbid_code=True)

    class Workspace:
        def get_resources_file_path(self) -> str:
            return str(kit / "local" / "resources.json")

    context = FLContext()
    context.set_prop(FLContextKey.WORKSPACE_OBJECT, Workspace(), private=True, sticky=False)
    checker = ComponentPathAuthorizer()
    return lambda path: checker.authorize_component_config({"path": path, "args": {}}, fl_ctx=context)


@pytest.mark.parametrize("path", ALLOWED)
def test_every_entry_is_a_component_a_network_or_an_optimiser(path):
    module, _, name = path.rpartition(".")
    target = getattr(importlib.import_module(module), name)
    assert target is nets.build or issubclass(target, BASES)


def test_no_entry_stands_for_more_than_itself():
    assert not [path for path in ALLOWED if path.endswith(".") or "*" in path]
    assert not [a for a in ALLOWED for b in ALLOWED if a.startswith(f"{b}.")]


@pytest.mark.parametrize("path", COMMANDS)
def test_flares_own_checker_refuses_commands(authorizer, path):
    with pytest.raises(UnsafeComponentError):
        authorizer(path)


def test_flares_own_checker_admits_all_that_the_jobs_name(authorizer):
    for job in sorted((ROOT / "jobs").iterdir()):
        for side in (CLIENT_CONFIG, SERVER_CONFIG):
            for path in class_paths(read_hocon(job / side)):
                authorizer(path)


def class_paths(node) -> list[str]:
    if isinstance(node, dict):
        own = [node["path"]] if isinstance(node.get("path", None), str) and "args" in node else []
        return own + [path for value in node.values() for path in class_paths(value)]
    return [path for value in node for path in class_paths(value)] if isinstance(node, list) else []


def test_the_jobs_name_classes():
    assert "fedmr.flare.learner.SiteLearner" in class_paths(read_hocon(ROOT / "jobs/mscan_dp" / CLIENT_CONFIG))


@pytest.mark.parametrize(
    "name", ["fedmr.", "fedmr", "monai.networks.nets", "subprocess.run", "a..B", "*", " x.Y", "x.Y."]
)
def test_a_site_cannot_open_a_whole_package_by_mistake(name):
    with pytest.raises(ValueError, match="one class"):
        checked_classes([name])


def test_a_site_adds_single_classes_of_its_own():
    assert class_allow_list(["monai.losses.SSIMLoss"])[-1] == "monai.losses.SSIMLoss"
    assert len(class_allow_list([ALLOWED[0]])) == len(ALLOWED)


def test_the_classes_of_a_sites_policy_reach_its_kit(tmp_path):
    kit = blank_kit(tmp_path / "site-1")
    (kit / "local" / "fedmr_policy.json").write_text(json.dumps({"classes": ["monai.losses.SSIMLoss"]}))
    fill_kit(kit)
    assert "monai.losses.SSIMLoss" in json.loads((kit / "local" / "resources.json").read_text())["class_allow_list"]
    (kit / "local" / "fedmr_policy.json").write_text(json.dumps({"classes": ["monai."]}))
    with pytest.raises(ValueError, match="monai"):
        fill_kit(kit)
