"""MONAI, which costs seconds and 200 MB, is in the processes that train, and in no other."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

JOBS = Path(__file__).parents[1] / "jobs"
NEEDED = {f"monai.{part}" for part in ("engines", "transforms", "data", "metrics", "inferers", "networks")}


def modules_after(code, *arguments):
    """Modules that a new process holds after running some code."""
    code += "\nimport sys\nprint('modules:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("modules:")[2].split())


def monai_after(code, *arguments):
    return {name for name in modules_after(code, *arguments) if name.split(".")[0] == "monai"}


@pytest.mark.e2e
def test_a_site_that_trains_holds_monai(site, task):
    code = """
import json, sys
from pathlib import Path

import pytest
import fedmr.flare.learner
from fedmr.tasks.registry import build_task
from fedmr.training.build import make_trainer
from fedmr.training.trainer import evaluate
task = build_task(json.loads(sys.argv[1]))
volumes = task.load(Path(sys.argv[2]))
trainer = make_trainer(task, task.sampler(volumes), rounds=1)
trainer.run_round()
evaluate(trainer.net, volumes, task)
"""
    assert monai_after(code, json.dumps(task.to_dict()), site) >= NEEDED


def test_the_help_of_the_command_holds_nothing_that_takes_time():
    code = """
import sys
from fedmr.cli.main import main
try:
    sys.argv = ["fedmr", "--help"]
    main()
except SystemExit:
    pass
"""
    slow = {"monai", "torch", "scipy", "numpy", "nibabel", "pydicom", "nvflare", "matplotlib", "h5py", "SimpleITK"}
    assert not slow & modules_after(code)


@pytest.mark.e2e
def test_the_servers_of_all_jobs_hold_none():
    """All classes of the servers' configs, and the networks, which they build for their first weights."""
    configs = [file.read_text() for file in JOBS.glob("*/app/config/config_fed_server.conf")]
    paths = {path for text in configs for path in re.findall(r'"?path"?\s*[=:]\s*"?([\w.]+\.\w+)"?', text)}
    assert {"fedmr.nets.build", "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor"} <= paths
    code = """
import importlib, sys
from pathlib import Path

import pytest
from fedmr.federation.render import read_task
from fedmr.nets import build
for path in sys.argv[2:]:
    module, _, name = path.rpartition(".")
    getattr(importlib.import_module(module), name)
for job in ("mscan_fedavg", "unet_flmr"):
    build(**read_task(Path(sys.argv[1]) / job)["network"])
"""
    assert not monai_after(code, JOBS, *sorted(paths))
