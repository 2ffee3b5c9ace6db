"""The learner against FLARE's own objects; only the engine, which a running job provides, is stood in for."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from nvflare.apis.analytix import AnalyticsDataType
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_constant import ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal
from nvflare.apis.workspace import Workspace
from nvflare.app_common.app_constant import AppConstants, ValidateType
from nvflare.app_opt.tracking.tb.tb_writer import TBWriter

from dp_settings_example import SETTINGS
from fedmr.data.datalist import DATA_ROOT_VARIABLE
from fedmr.flare.learner import STATE_FILE, SiteLearner, _threads_per_site
from fedmr.flare.messages import REASON
from fedmr.flare.versions import VERSIONS, own_versions
from fedmr.nets import build
from fedmr.privacy.accountant import BUDGET_FILE
from phantoms import write_site

ROUNDS = 2


class RecordingWriter(TBWriter):
    def __init__(self):
        super().__init__()
        self.records = []

    def write(self, tag, value, data_type, global_step=None, **kwargs):
        self.records.append((tag, data_type, value))


@pytest.fixture
def workspace(tmp_path):
    for folder in ("startup", "local", "job"):
        (tmp_path / "flare" / "site-1" / folder).mkdir(parents=True)
    return Workspace(str(tmp_path / "flare" / "site-1"), site_name="site-1")


@pytest.fixture
def fl_ctx(workspace):
    context = FLContext()
    context.set_prop(ReservedKey.ENGINE, SimpleNamespace(get_workspace=lambda: workspace), private=True)
    context.set_prop(ReservedKey.IDENTITY_NAME, "site-1")
    context.set_prop(ReservedKey.RUN_NUM, "job")
    return context


@pytest.fixture
def start(tmp_path, task, fl_ctx, monkeypatch):
    """Start a learner on the data of tmp_path, as a new process would; gives it and its writer."""
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path / "data"))

    def make(**changes):
        learner, writer = SiteLearner(task.to_dict() | changes, threads=1), RecordingWriter()
        learner.initialize({"writer": writer}, fl_ctx)
        return learner, writer

    return make


def message(task, kind=None, number=0, **headers):
    weights = {k: v.numpy() for k, v in build(**task.network).state_dict().items()}
    shareable = DXO(DataKind.WEIGHTS, data=weights).to_shareable()
    shareable.set_header(AppConstants.CURRENT_ROUND, number)
    shareable.set_header(AppConstants.NUM_ROUNDS, ROUNDS)
    shareable.set_header(AppConstants.VALIDATE_TYPE, kind)
    for key, value in headers.items():
        shareable.set_header(key, value)
    return shareable


def test_training_returns_the_difference_and_the_steps(site, task, start, fl_ctx):
    learner, writer = start()
    dxo = from_shareable(learner.train(message(task), fl_ctx, Signal()))
    assert dxo.data_kind == DataKind.WEIGHT_DIFF
    assert dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND) == 5  # 5 slices x 4 patches / batches of 4
    after = learner._trainer.net.state_dict()
    for name, before in build(**task.network).state_dict().items():
        assert dxo.data[name].dtype == np.float32
        assert np.allclose(before.numpy() + dxo.data[name], after[name].numpy(), atol=1e-7)
    assert {"train/loss", "train/learning_rate"} <= {tag for tag, _, _ in writer.records}
    measured = [value for tag, _, value in writer.records if tag == "train/loss"]
    assert measured
    assert measured == [float(f"{value:.4g}") for value in measured]  # exact ones could carry a message


def test_a_new_process_goes_on_where_the_old_one_ended(site, task, start, fl_ctx):
    straight, _ = start()
    straight.train(message(task), fl_ctx, Signal())
    expected = from_shareable(straight.train(message(task, number=1), fl_ctx, Signal())).data
    state = straight._state_file
    assert state.name == STATE_FILE
    state.unlink()
    start()[0].train(message(task), fl_ctx, Signal())
    restarted = from_shareable(start()[0].train(message(task, number=1), fl_ctx, Signal())).data
    assert all(np.array_equal(expected[k], restarted[k]) for k in expected)


def test_received_weights_are_validated_before_training_and_tested_as_a_task(site, task, start, fl_ctx):
    learner, _ = start()
    before = from_shareable(learner.validate(message(task, ValidateType.BEFORE_TRAIN_VALIDATE), fl_ctx, Signal()))
    metrics = before.data[MetaKey.INITIAL_METRICS]
    assert metrics["psnr"] > 20
    data = message(task, ValidateType.MODEL_VALIDATE, **{AppConstants.MODEL_OWNER: "m"})
    tested = from_shareable(learner.validate(data, fl_ctx, Signal())).data
    assert set(tested) == {"n_volumes", "zero_filled", "interpolated", "model"}
    assert tested["model"]["psnr"] == pytest.approx(tested["interpolated"]["psnr"], abs=1e-3)
    assert tested["model"]["psnr"] != metrics["psnr"], "validation and test are different patients"


def test_an_abort_is_honoured_in_training_and_validation(site, task, start, fl_ctx):
    learner, _ = start()
    stop = Signal()
    stop.trigger("stop")
    assert learner.train(message(task), fl_ctx, stop).get_return_code() == ReturnCode.TASK_ABORTED
    kind = ValidateType.BEFORE_TRAIN_VALIDATE
    assert learner.validate(message(task, kind), fl_ctx, stop).get_return_code() == ReturnCode.TASK_ABORTED
    assert not learner._state_file.exists()


@pytest.mark.parametrize("allowed", [True, False])
def test_pixels_leave_only_where_the_datalist_allows_it(site, task, start, fl_ctx, allowed):
    datalist = json.loads((site / "datalist.json").read_text()) | {"share_images": allowed}
    (site / "datalist.json").write_text(json.dumps(datalist))
    learner, writer = start()
    learner.validate(message(task, ValidateType.BEFORE_TRAIN_VALIDATE), fl_ctx, Signal())
    learner.validate(message(task, ValidateType.MODEL_VALIDATE), fl_ctx, Signal())
    images = [value for _, kind, value in writer.records if kind == AnalyticsDataType.IMAGE]
    assert len(images) == (2 if allowed else 0)
    assert all(image.shape == (1, 48, 4 * 45) and image.dtype == np.uint8 for image in images)


def test_unusable_data_fail_every_task_with_one_error(site, task, start, fl_ctx, caplog):
    (site / "sub-2" / "anat" / "sub-2_T1w.nii.gz").unlink()
    learner, _ = start()
    for reply in (
        learner.validate(message(task, ValidateType.BEFORE_TRAIN_VALIDATE), fl_ctx, Signal()),
        learner.train(message(task), fl_ctx, Signal()),
        learner.get_model_for_validation("best", fl_ctx),
    ):
        assert reply.get_return_code() == ReturnCode.EXECUTION_RESULT_ERROR
    errors = [r for r in caplog.records if r.levelname == "ERROR"]
    assert len(errors) == 1
    assert "sub-2_T1w.nii.gz does not exist" in errors[0].getMessage()


def test_a_bad_task_and_a_diverged_loss_say_why(site, task, start, fl_ctx, caplog):
    start(batchsize=3)
    assert "batchsize is unknown" in caplog.text
    learner, _ = start(learning_rate=1e12)
    assert learner.train(message(task), fl_ctx, Signal()).get_return_code() == ReturnCode.EXECUTION_RESULT_ERROR
    assert "lower learning_rate" in caplog.text


def test_a_site_with_nothing_but_background_says_so_before_training(site, task, start, fl_ctx, caplog):
    voxels = np.zeros((48, 45, 5), np.int16)
    voxels[20:23, 20:23] = 500
    nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 5.0, 1.0])), site / "sub-0" / "anat" / "sub-0_T1w.nii.gz")
    learner, _ = start()
    assert "25% foreground" in caplog.text
    assert learner.train(message(task), fl_ctx, Signal()).get_return_code() == ReturnCode.EXECUTION_RESULT_ERROR


def test_the_own_model_can_be_submitted_after_a_round(site, task, start, fl_ctx):
    learner, _ = start()
    assert learner.get_model_for_validation("best", fl_ctx).get_return_code() != ReturnCode.OK
    learner.train(message(task), fl_ctx, Signal())
    dxo = from_shareable(learner.get_model_for_validation("best", fl_ctx))
    assert dxo.data_kind == DataKind.WEIGHTS
    for name, value in learner._trainer.net.state_dict().items():
        assert torch.equal(torch.as_tensor(dxo.data[name]), value)


def test_another_networks_weights_are_refused(site, task, start, fl_ctx):
    learner, _ = start()
    foreign = DXO(DataKind.WEIGHTS, data={"conv.weight": np.zeros(3)}).to_shareable()
    foreign.set_header(AppConstants.NUM_ROUNDS, 1)
    with pytest.raises(ValueError, match="another network"):
        learner.validate(foreign, fl_ctx, Signal())


def test_sites_on_one_machine_share_its_cores(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for name in ("server", "localhost", "admin@hub.org", "site-1"):
        (tmp_path / name / "local").mkdir(parents=True)
    (tmp_path / "localhost" / "startup").mkdir()
    (tmp_path / "localhost" / "startup" / "fed_server.json").write_text("{}")
    assert _threads_per_site(tmp_path / "site-1") == 8
    for number in range(2, 5):
        (tmp_path / f"site-{number}" / "local").mkdir(parents=True)
    assert _threads_per_site(tmp_path / "site-1") == 2
    for number in range(5, 20):
        (tmp_path / f"site-{number}" / "local").mkdir(parents=True)
    assert _threads_per_site(tmp_path / "site-1") == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert _threads_per_site(tmp_path / "site-1") == 3


def test_a_site_without_data_says_where_the_data_root_is_stated_and_no_path(
    tmp_path, task, start, fl_ctx, caplog, monkeypatch
):
    monkeypatch.delenv(DATA_ROOT_VARIABLE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fedmr.flare.sites._typed_in", lambda: [])  # the tests' own folder may hold data/
    start()
    assert "data/ where the command was typed" in caplog.text
    assert str(tmp_path) not in caplog.text
    (tmp_path / "flare" / "site-1" / "local" / "fedmr_data_root.txt").write_text(str(tmp_path / "elsewhere"))
    write_site(tmp_path / "elsewhere", "site-1", seed=5)
    caplog.clear()
    start()
    assert "ERROR" not in caplog.text


def private(**changes):
    return SETTINGS | {"noise_multiplier": 1.0, "max_epsilon": 1e3} | changes


@pytest.mark.e2e
def test_a_site_whose_budget_is_spent_trains_no_more_and_still_tests(site, task, start, fl_ctx, caplog):
    learner, writer = start(dp_sgd=private())
    for number in range(2):
        assert learner.train(message(task, number=number), fl_ctx, Signal()).get_return_code() == ReturnCode.OK
    epsilons = [value for tag, _, value in writer.records if tag == "privacy/epsilon_slice"]
    assert epsilons == sorted(epsilons)
    limited, writer = start(dp_sgd=private(max_epsilon=epsilons[-1]))
    state = learner._state_file.read_bytes()
    reply = limited.train(message(task), fl_ctx, Signal())
    assert reply.get_return_code() == ReturnCode.EXECUTION_RESULT_ERROR
    assert "DXO" not in reply
    assert "the privacy budget is spent: with this release, number 3, epsilon per slice would be" in caplog.text
    assert learner._state_file.read_bytes() == state
    assert not any(tag.startswith("privacy") for tag, _, _ in writer.records)
    assert limited.validate(message(task), fl_ctx, Signal()).get_return_code() == ReturnCode.OK


def test_a_site_does_not_go_on_for_another_unit(site, task, start, fl_ctx, caplog):
    learner, _ = start(dp_sgd=private())
    learner.train(message(task), fl_ctx, Signal())
    other, _ = start(dp_sgd=private(unit="patient", units_per_step=1))
    with pytest.raises(ValueError, match="the saved training protected every slice"):
        other.train(message(task), fl_ctx, Signal())
    learner._state_file.unlink()  # another job, which knows nothing of the first
    another, _ = start(dp_sgd=private(unit="patient", units_per_step=1))
    assert another.train(message(task), fl_ctx, Signal()).get_return_code() == ReturnCode.EXECUTION_RESULT_ERROR
    assert "holds DP-SGD that protects every slice" in caplog.text


def test_a_site_whose_account_cannot_be_kept_does_not_train(site, task, start, fl_ctx, workspace):
    (Path(workspace.get_site_config_dir()) / BUDGET_FILE).write_text("{")
    learner, _ = start(dp_sgd=private())
    reply = learner.train(message(task), fl_ctx, Signal())
    assert reply.get_return_code() == ReturnCode.EXECUTION_RESULT_ERROR
    assert not learner._state_file.exists()


def test_the_model_that_a_site_submits_is_the_one_that_noised_gradients_made(site, task, start, fl_ctx):
    learner, _ = start(dp_sgd=private())
    update = from_shareable(learner.train(message(task), fl_ctx, Signal())).data
    model = from_shareable(learner.get_model_for_validation("any", fl_ctx))
    assert model.data_kind == DataKind.WEIGHTS
    start_weights = from_shareable(message(task)).data
    assert all(abs(model.data[n] - start_weights[n] - update[n]).max() < 1e-6 for n in update)


def keep_splits(site, *kept):
    """Give the site's volumes the splits `kept` in turn."""
    datalist = json.loads((site / "datalist.json").read_text())
    for number, entry in enumerate(datalist["volumes"]):
        entry["split"] = kept[number % len(kept)]
    (site / "datalist.json").write_text(json.dumps(datalist))


@pytest.mark.parametrize(
    "kept", [("train",), ("train", "val"), ("train", "test"), ("val", "test"), ("test",), ("val",)]
)
@pytest.mark.parametrize("algorithm", [{"name": "fedavg"}, {"name": "ditto", "strength": 0.1}])
def test_a_site_takes_part_in_what_it_has_volumes_for(site, task, start, fl_ctx, caplog, kept, algorithm):
    keep_splits(site, *kept)
    learner, _ = start(algorithm=algorithm)
    before = learner.validate(message(task, ValidateType.BEFORE_TRAIN_VALIDATE), fl_ctx, Signal())
    reply = learner.train(message(task), fl_ctx, Signal())
    tested = learner.validate(message(task, ValidateType.MODEL_VALIDATE), fl_ctx, Signal())
    metrics = from_shareable(before).data[MetaKey.INITIAL_METRICS]
    figures = from_shareable(tested).data
    assert ("psnr" in metrics) == ("val" in kept)
    assert ("model" in figures) == ("test" in kept)
    assert "val" in kept or metrics == {"n_volumes": 0}
    assert "test" in kept or figures == {"n_volumes": 0}
    assert reply.get_return_code() == (ReturnCode.OK if "train" in kept else ReturnCode.TASK_UNSUPPORTED)
    for split, word in (("train", "training"), ("val", "validation"), ("test", "test")):
        assert (f"no {word} volumes" in caplog.text) == (split not in kept)


def test_the_reason_of_a_site_that_cannot_take_part_reaches_the_server_without_a_name(site, task, start, fl_ctx):
    (site / "sub-2" / "anat" / "sub-2_T1w.nii.gz").unlink()
    learner, _ = start()
    reason = learner.train(message(task), fl_ctx, Signal()).get_header(REASON)
    assert reason.startswith("it cannot take part: ")
    assert "does not exist" in reason
    assert "sub-2" not in reason
    assert "nii" not in reason
    assert str(site.parent) not in reason


def test_a_site_states_its_versions_with_every_message(site, start, fl_ctx):
    start()
    assert fl_ctx.get_all_public_props()[VERSIONS] == own_versions()
