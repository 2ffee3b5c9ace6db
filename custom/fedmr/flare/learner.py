"""The site's side of a federated job: a `Learner` around `fedmr.training.trainer`."""

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvflare.apis.analytix import AnalyticsDataType
from nvflare.apis.dxo import DXO, DataKind, MetaKey
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.learner_spec import Learner
from nvflare.app_common.app_constant import AppConstants, ValidateType
from nvflare.app_common.tracking.log_writer import LogWriter

from fedmr.algorithms.flmrcm import Mrcm
from fedmr.checkpoints.card import make_card
from fedmr.checkpoints.model_file import Model, save_model
from fedmr.data.datalist import present_splits, read_datalist
from fedmr.data.splits import SPLITS
from fedmr.flare.ledger import site_ledger
from fedmr.flare.messages import REASON, VALIDATION_SPLIT, latents_message, pack, unpack
from fedmr.flare.sites import site_folder
from fedmr.flare.versions import VERSIONS, own_versions
from fedmr.privacy.accountant import BudgetError
from fedmr.privacy.mechanism import rounded_figure
from fedmr.reports.pictures import comparison_image
from fedmr.runs.records import OF_SERVER
from fedmr.runs.run import PERSONAL_FILE
from fedmr.tasks.base import NothingToTrain
from fedmr.tasks.registry import build_task
from fedmr.training.build import make_trainer
from fedmr.training.dp_sgd import PrivateTrainer
from fedmr.training.engine import TrainingStats
from fedmr.training.target_latents import charge_of, protect, site_latents
from fedmr.training.trainer import Trainer, evaluate
from fedmr.utils.errors import DataError, UnsafeError
from fedmr.utils.text import without_names

STATE_FILE = "fedmr_site_state.pt"
EARLIER_STATE_FILE = "fedmr_site_state_earlier.pt"
_LACKS = {
    "train": "has no training volumes: it only evaluates",
    "val": "has no validation volumes: its figures do not help to select the best model",
    "test": "has no test volumes: it tests no model",
}


class SiteLearner(Learner):
    """Trains and evaluates a super-resolution network on a site's own data.

    Per round it evaluates the *received* weights on the validation volumes, trains, and returns the weight
    difference with the number of optimisation steps. Optimiser, schedule and hooks are saved on the site after
    every round, because a simulator with fewer threads than sites starts a new process for every turn. The
    `validate` task evaluates on the test volumes. A site whose data cannot be used says why, once, and fails the job. A
    site without validation or test volumes trains all the same and reports figures of 0 volumes; one without training
    volumes only evaluates.

    An algorithm's personal network is evaluated with the received one and saved on the site as a model file. Where
    some of the network is private it is the only one: that part is taken from the server once, and never returned.

    Args:
        task: the numbers of `fedmr.tasks.base.Task`.
        threads: torch threads; by default the machine's cores divided by the FLARE sites on it.
        resume: ``{"job": id, "round": n}`` for a job that goes on from the state which the sites have from another one
            after n rounds; made by `fedmr.runs.resume`.
    """

    def __init__(self, task: dict[str, Any], threads: int | None = None, resume: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.task = task
        self.threads = threads
        self.resume = resume
        self._failed = ""
        self._folder: Path | None = None
        self._trainer: Trainer | None = None
        self._received_psnr = float("nan")
        self._round_started = time.perf_counter()

    def initialize(self, parts: dict[str, Any], fl_ctx: FLContext) -> None:
        """Load and check the site's data; a failure is kept and returned by every later task."""
        workspace = fl_ctx.get_engine().get_workspace()
        self._site = fl_ctx.get_identity_name()
        self._state_file = Path(workspace.get_run_dir(fl_ctx.get_job_id())) / STATE_FILE
        self._state_folders = [self._state_file.parent]
        if self.resume:
            self._state_folders.append(Path(workspace.get_run_dir(self.resume["job"])))
        fl_ctx.set_prop(VERSIONS, own_versions(), private=False, sticky=True)
        root = Path(workspace.get_root_dir())
        torch.set_num_threads(self.threads or _threads_per_site(root))
        self._writer = next((p for p in parts.values() if isinstance(p, LogWriter)), None)
        try:
            self._task = build_task(self.task)
            folder = self._folder = site_folder(fl_ctx)
            self._may_share_images = read_datalist(folder).get("share_images") is True
            present = present_splits(folder)
            volumes = self._task.load(folder, present)
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            trains = "train" in present
            self._sampler = self._task.sampler(volumes, device) if trains else NothingToTrain(device)
        except (DataError, ValueError) as error:
            self._fail(fl_ctx, str(error))
            return
        self._volumes = {split: [v for v in volumes if v.split == split] for split in ("val", "test")}
        if absent := [_LACKS[split] for split in SPLITS if split not in present]:
            self.log_warning(fl_ctx, f"{self._site} {' and '.join(absent)}", fire_event=False)

    def train(self, data: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """One round: receive weights, train `local_epochs`, return the difference."""
        if self._failed:
            return self._reply_failed()
        if isinstance(self._sampler, NothingToTrain):
            return make_reply(ReturnCode.TASK_UNSUPPORTED)
        rounds = self._rounds(data)
        trainer = self._prepare(data, rounds)
        received = {name: value.detach().clone() for name, value in trainer.net.state_dict().items()}

        def say(epoch: int, progress: TrainingStats) -> None:
            if not math.isnan(progress.loss):
                self._stream("train/loss", progress.loss, trainer.epoch)
            self._stream("train/learning_rate", trainer.optimizer.param_groups[0]["lr"], trainer.epoch)
            self._log_epoch(fl_ctx, data.get_header(AppConstants.CURRENT_ROUND), rounds, epoch, progress)

        try:
            if isinstance(trainer, PrivateTrainer):
                site_ledger(self, fl_ctx, self._stream).charge(trainer.charge)
            progress = trainer.run_round(lambda: bool(abort_signal.triggered), say)
        except FloatingPointError as error:
            return self._fail(fl_ctx, str(error))
        except BudgetError as error:  # the site can still test models
            self.log_error(fl_ctx, f"{self._site} | {error}", fire_event=False)
            return make_reply(ReturnCode.EXECUTION_RESULT_ERROR)
        if progress.stopped:
            return make_reply(ReturnCode.TASK_ABORTED)
        self._save(trainer)
        if isinstance(trainer, PrivateTrainer):
            site_ledger(self, fl_ctx).record("DP-SGD, mean of the steps", trainer.distance())
        trained = {k: v for k, v in trainer.result().items() if not trainer.is_private(k)}
        difference = {k: (v - received[k]).cpu().numpy() for k, v in trained.items()}
        controls = {k: v.cpu().numpy() for k, v in trainer.send().items()}
        return pack(difference, progress.steps, controls).to_shareable()

    def validate(self, data: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Received weights: before training and after the last round on validation volumes, else on the test's."""
        if self._failed:
            return self._reply_failed()
        self._round_started = time.perf_counter()
        before_training = data.get_header(AppConstants.VALIDATE_TYPE) == ValidateType.BEFORE_TRAIN_VALIDATE
        trainer = self._prepare(data, self._rounds(data))
        try:
            asked = "val" if before_training or data.get_header(VALIDATION_SPLIT) == "val" else "test"
            result = self._evaluate(trainer, asked, abort_signal)
        except InterruptedError:
            return make_reply(ReturnCode.TASK_ABORTED)
        if not result["n_volumes"]:  # said, so that the server knows that it need not wait for figures
            figures = {MetaKey.INITIAL_METRICS: result} if before_training else result
            return DXO(DataKind.METRICS, data=figures).to_shareable()
        model = result["model"]
        if before_training:
            self._received_psnr = model["psnr"]
            for name in ("psnr", "ssim"):
                self._stream(f"val/{name}", model[name], trainer.epoch)
                if "personal" in result:
                    self._stream(f"val/personal_{name}", result["personal"][name], trainer.epoch)
            self._stream_image("val", trainer, trainer.epoch)
            return DXO(DataKind.METRICS, data={MetaKey.INITIAL_METRICS: model}).to_shareable()
        if asked == "val":
            return DXO(DataKind.METRICS, data={"model": model}).to_shareable()
        owner = str(data.get_header(AppConstants.MODEL_OWNER))
        self._stream_image(f"test/{owner}", trainer, trainer.epoch)
        self.log_info(fl_ctx, f"{self._site} | test | {owner} | PSNR {model['psnr']:.2f} dB | SSIM {model['ssim']:.4f}")
        return DXO(DataKind.METRICS, data=result).to_shareable()

    def latents(self, data: Shareable, fl_ctx: FLContext) -> Shareable:
        """FL-MRCM's target site: latents of a few training slices under the received weights, clipped and noised."""
        if self._failed:
            return self._reply_failed()
        settings, number = Mrcm.from_dict(self._task.algorithm), data.get_header(AppConstants.CURRENT_ROUND)
        try:
            if self._site not in settings.target_sites:
                raise UnsafeError("it is no target site of the job")
            if isinstance(self._sampler, NothingToTrain):
                raise UnsafeError("it has no training volumes")
            if charge := charge_of(settings):
                site_ledger(self, fl_ctx, self._stream).charge(charge)
        except (UnsafeError, BudgetError) as error:  # the site can still train and test models
            self.log_error(fl_ctx, f"{self._site} gives no latents: {error}", fire_event=False)
            return make_reply(ReturnCode.EXECUTION_RESULT_ERROR)
        trainer = self._prepare(data, self._rounds(data))
        given = site_latents(trainer.net, self._sampler, vectors=settings.vectors, number=number)
        sent = protect(given.cpu().numpy(), settings)
        self._stream("latents/bytes", sent.nbytes, number)
        return latents_message(sent).to_shareable()

    def get_model_for_validation(self, model_name: str, fl_ctx: FLContext) -> Shareable:
        """Return the site's weights after its last round, for cross-site evaluation, without what is private.

        A site that trains alone and is asked for its model by such a job gives all of it.
        """
        if self._failed or not self._state_file.is_file():
            return make_reply(ReturnCode.EXECUTION_RESULT_ERROR)
        state = torch.load(self._state_file, map_location="cpu", weights_only=True)["net"]
        trainer = self._trainer or make_trainer(self._task, self._sampler, rounds=1)
        shared = {k: v for k, v in state.items() if not trainer.is_private(k)} or state
        return DXO(DataKind.WEIGHTS, data={k: v.cpu().numpy() for k, v in shared.items()}).to_shareable()

    def _evaluate(self, trainer: Trainer, split: str, abort_signal: Signal) -> dict[str, Any]:
        """`training.evaluate` of the network, and of a personal one from its first training on."""

        def stop() -> bool:
            return bool(abort_signal.triggered)

        volumes = self._volumes[split]
        result = evaluate(trainer.net, volumes, self._task, with_baselines=split == "test", should_stop=stop)
        if volumes and trainer.personal not in (None, trainer.net) and trainer.epoch:
            result["personal"] = evaluate(trainer.personal, volumes, self._task, should_stop=stop)["model"]
        return result

    def _log_epoch(self, fl_ctx: FLContext, number: int, rounds: int, epoch: int, progress: TrainingStats) -> None:
        """One line per site, round and epoch; FLARE's own lines name neither site nor loss."""
        epochs = self._task.local_epochs
        seconds_per_round = (time.perf_counter() - self._round_started) * epochs / (epoch + 1)
        loss = "loss not told" if math.isnan(progress.loss) else f"loss {progress.loss:.5f}"
        psnr = "not known" if math.isnan(self._received_psnr) else f"{self._received_psnr:.2f} dB"
        left = seconds_per_round * (rounds - number - (epoch + 1) / epochs)
        self.log_info(
            fl_ctx,
            f"{self._site} | round {number}/{rounds - 1} | epoch {epoch + 1}/{epochs} | {loss} | "
            f"PSNR received {psnr} | {1000 * progress.seconds / max(progress.steps, 1):.0f} "
            f"ms/step | {left / 60:.1f} min left",
        )

    def _fail(self, fl_ctx: FLContext, reason: str) -> Shareable:
        """Say why in one line of the site's log; the reply makes the server end the job as failed.

        FLARE can send a site's log to the server, so files are named from the site's folder on.
        """
        reason = reason.replace(f"{self._folder}{os.sep}", "") if self._folder else reason
        self.log_error(fl_ctx, f"{self._site} cannot take part: {reason}", fire_event=False)
        self._failed = without_names(reason, _names_in(self._folder))
        return self._reply_failed()

    def _reply_failed(self) -> Shareable:
        """Tell the server why, without any name of a file or a patient; a job's privacy filter drops even that."""
        return make_reply(ReturnCode.EXECUTION_RESULT_ERROR, {REASON: f"it cannot take part: {self._failed}"})

    def _prepare(self, data: Shareable, rounds: int) -> Trainer:
        """The site's trainer, restored if the process is new, holding the weights to train or evaluate."""
        if self._trainer is None:
            make = Trainer if isinstance(self._sampler, NothingToTrain) else make_trainer
            self._trainer = make(self._task, self._sampler, rounds=rounds)
            if state := self._saved(data.get_header(AppConstants.CURRENT_ROUND)):
                self._trainer.load_state_dict(state)
        arrays, beside = unpack(data)
        received = {k: torch.as_tensor(np.asarray(v)) for k, v in arrays.items()}
        # also if it is nothing: what came in an earlier round is over
        self._trainer.receive({k: torch.as_tensor(np.asarray(v)) for k, v in beside.items()})
        shapes = self._trainer.net.state_dict()
        whole = self._trainer.before_load(received, self._own(data, received))
        missing = sorted(set(shapes) - set(whole))
        if missing:
            raise ValueError(f"the server's model has no {missing[0]!r}: it was made for another network")
        weights = {k: whole[k].to(v).reshape(v.shape) for k, v in shapes.items()}
        self._trainer.net.load_state_dict(weights)
        return self._trainer

    def _own(self, data: Shareable, received: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return the site's weights after its last round by name, as they may stand in for a model's.

        Of another site's model, which the server asks to test, only what that site kept to itself.
        """
        if self._trainer is None or not self._trainer.hooks or not (state := self._saved(None)):
            return {}
        of_server = str(data.get_header(AppConstants.MODEL_OWNER, OF_SERVER)).startswith(OF_SERVER)
        return {name: value for name, value in state["net"].items() if of_server or name not in received}

    def _rounds(self, data: Shareable) -> int:
        """Rounds in all; a job that resumes counts only its own."""
        return int(data.get_header(AppConstants.NUM_ROUNDS, 1)) + (self.resume["round"] if self.resume else 0)

    def _saved(self, number: int | None) -> dict[str, Any] | None:
        """The site's state before round `number`, else the newest, e.g. of a site that missed a round."""
        files = [folder / name for folder in self._state_folders for name in (STATE_FILE, EARLIER_STATE_FILE)]
        states = [torch.load(f, map_location="cpu", weights_only=True) for f in files if f.is_file()]
        wanted = [s for s in states if number is not None and s["epoch"] == number * self._task.local_epochs]
        return next(iter(wanted + states), None)

    def _save(self, trainer: Trainer) -> None:
        """Write the site's state so that a crash in between leaves the old one.

        The state before it is kept: if the server dies before it has all updates of a round, that round comes again.
        """
        unfinished = self._state_file.with_suffix(".tmp")
        torch.save(trainer.state_dict(), unfinished)
        if self._state_file.is_file():
            self._state_file.replace(self._state_file.with_name(EARLIER_STATE_FILE))
        unfinished.replace(self._state_file)
        if trainer.personal is not None:
            model = Model(trainer.personal, make_card(self._task))
            save_model(self._state_file.with_name(PERSONAL_FILE), model)

    def _stream(self, tag: str, value: float, step: int) -> None:
        """Send a figure for the curves; what is measured on scans is rounded, as metrics are."""
        if self._writer:
            measured = tag.startswith(("train/loss", "val/"))
            sent = rounded_figure(float(value)) if measured else float(value)
            self._writer.write(tag, sent, AnalyticsDataType.SCALAR, global_step=step)

    def _stream_image(self, tag: str, trainer: Trainer, step: int) -> None:
        """Send one comparison picture, only where the site's own datalist allows pixels to leave."""
        if self._writer and self._may_share_images:
            volume = self._volumes[tag.split("/")[0]][0]
            picture = comparison_image(trainer.net, volume, self._task)
            self._writer.write(tag, picture, AnalyticsDataType.IMAGE, global_step=step)


def _names_in(folder: Path | None) -> list[str]:
    """Names of files and patients in a site's datalist, none where it cannot be read."""
    if folder is None:
        return []
    try:
        entries = read_datalist(folder)["volumes"]
    except DataError:
        return []
    return [str(entry[key]) for entry in entries for key in ("image", "kspace", "patient") if key in entry]


def _threads_per_site(root: Path) -> int:
    """Cores divided by the FLARE sites whose folders lie next to this one (simulator, POC), at least 1.

    A count of folders, not of processes, so that every run of a job computes with the same number of threads.
    """
    if os.environ.get("OMP_NUM_THREADS"):
        return int(os.environ["OMP_NUM_THREADS"])
    sites = [p for p in root.parent.iterdir() if (p / "local").is_dir() and not _is_server_or_admin(p)]
    return max(1, (os.cpu_count() or 1) // max(len(sites), 1))


def _is_server_or_admin(folder: Path) -> bool:
    return folder.name == "server" or "@" in folder.name or (folder / "startup" / "fed_server.json").is_file()
