"""A bundle trains and tests itself, alone and in a federation, on machines that have MONAI but no FedMR."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fedmr.checkpoints.card import make_card
from fedmr.checkpoints.export import export
from fedmr.checkpoints.model_file import Model, save_model
from fedmr.nets import build
from fedmr.tasks.super_resolution import SuperResolutionTask
from fedmr.training.standalone import evaluate_sites
from phantoms import write_site
from simulator import ROOT

pytestmark = pytest.mark.e2e
NETWORK = {"name": "mscan", "scale": 2, "channels": 8, "blocks": 1, "grid": "pixel0"}
CHECK = """
from monai.bundle import ConfigWorkflow
for configs, kind in ((["configs/train.json"], "train"), (["configs/train.json", "configs/evaluate.json"], "train")):
    workflow = ConfigWorkflow(configs, workflow_type=kind, dataset_dir=DATA)
    workflow.initialize()
    assert not workflow.check_properties(), workflow.check_properties()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model, its bundle, and two sites; FedMR is poisoned."""
    folder = tmp_path_factory.mktemp("bundle")
    task = SuperResolutionTask(network=NETWORK, batch_size=4, patch_size=12)
    save_model(folder / "model.pt", Model(build(**task.network), make_card(task)))
    export(folder / "model.pt", "bundle", out=folder / "b")
    for number in (1, 2):
        write_site(folder / "data", f"site-{number}", seed=number, patients=4, shape=(48, 45, 4))
    (folder / "poison" / "fedmr").mkdir(parents=True)
    (folder / "poison" / "fedmr" / "__init__.py").write_text("raise ImportError('this machine has no FedMR')\n")
    return folder


def run(place: Path, folder: Path, *arguments: object) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(place / "poison"), "OMP_NUM_THREADS": "1", "PATH": path}
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


def tested(place: Path, *arguments: object) -> float:
    """Mean PSNR of the test volumes that MONAI's command prints."""
    configs = "['configs/train.json','configs/evaluate.json']"
    command = ["-m", "monai.bundle", "run", "--config_file", configs, "--dataset_dir", place / "data" / "site-1"]
    return float(re.findall(r"Metrics -- psnr: ([\d.]+)", run(place, place / "b", *command, *arguments))[-1])


def test_monais_command_tests_and_trains(place):
    before = tested(place)
    wanted = evaluate_sites(place / "model.pt", place / "data" / "site-1")["mean"]["model"]["psnr"]
    assert before == pytest.approx(wanted, abs=1e-3)
    data = place / "data" / "site-1"
    run(place, place / "b", "-c", CHECK.replace("DATA", repr(str(data))))
    command = ["-m", "monai.bundle", "run", "--config_file", "configs/train.json", "--dataset_dir", data]
    run(place, place / "b", *command, "--max_epochs", 12, "--learning_rate", 2e-3)
    assert tested(place, "--model", "models/trained.ts") > before


def test_it_trains_in_a_federation_through_flares_recipe_and_monaialgo(place, tmp_path):
    for name in ("monai_bundle_federation.py", "monai_bundle_client.py"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    run(place, tmp_path, tmp_path / "monai_bundle_federation.py", place / "b", place / "data")
    server = tmp_path / "runs" / "monai_bundle" / "server" / "simulate_job"
    log = (server.parent / "log.txt").read_text()
    assert all(f"site-{number}" in log for number in (1, 2))
    trained = torch.load(server / "app_server" / "FL_global_model.pt", weights_only=True)["model"]
    before = torch.jit.load(place / "b" / "models" / "model.ts").state_dict()
    assert trained.keys() == before.keys()
    assert max(float((torch.as_tensor(trained[n]) - before[n]).abs().max()) for n in before) > 1e-5
