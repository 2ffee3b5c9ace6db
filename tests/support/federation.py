"""A rendered job in one process, in seconds: FLARE's own workflows and the job's own components, but no network.

Only the engine and the communicator are stood in for. Messages are serialised by FLARE, and what a run leaves on disk
is what a simulator leaves: `fedmr.reports.table` reads it.
"""

import json
import shutil
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContextManager
from nvflare.apis.shareable import make_reply
from nvflare.apis.signal import Signal
from nvflare.apis.utils.decomposers import flare_decomposers
from nvflare.apis.wf_comm_spec import WFCommSpec
from nvflare.apis.workspace import Workspace
from nvflare.app_common.decomposers import common_decomposers
from nvflare.app_opt.tracking.tb.tb_writer import TBWriter
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.component_builder import ComponentBuilder

from fedmr.data.datalist import DATA_ROOT_VARIABLE
from fedmr.federation.render import CLIENT_CONFIG, SERVER_CONFIG
from fedmr.utils.hocon import read_hocon
from simulator import SITES

JOB = "simulate_job"


class Recorder(TBWriter):
    """Keeps what a site streams."""

    def __init__(self):
        super().__init__()
        self.records: dict[str, list[Any]] = defaultdict(list)

    def write(self, tag, value, data_type, global_step=None, **kwargs):
        self.records[tag].append(value)


class Builder(ComponentBuilder):
    def get_module_scanner(self):
        raise NotImplementedError("every component has a path")


class Engine:
    """What FLARE's components ask of their engine, on the server or on a site."""

    def __init__(self, home: Path, config: dict[str, Any]):
        for folder in ("startup", "local", JOB):
            (home / folder).mkdir(parents=True, exist_ok=True)
        self._workspace = Workspace(str(home), site_name=home.name)
        self._manager = FLContextManager(self, home.name, JOB)
        self.clients: list[Client] = []
        self.components = {c["id"]: self.build_component(c) for c in config["components"]}
        self.workflows = [self.build_component(w) for w in config.get("workflows", [])]

    def build_component(self, config):
        return Builder().build_component(config)

    def get_component(self, name):
        return self.components.get(name)

    def get_all_components(self):
        return self.components

    def get_clients(self):
        return self.clients

    def get_workspace(self):
        return self._workspace

    def new_context(self):
        context = self._manager.new_context()
        context.set_prop(FLContextKey.APP_ROOT, self._workspace.get_app_dir(JOB), private=True, sticky=False)
        return context

    def persist_components(self, fl_ctx, completed):
        """Nothing: a run in one process is not resumed."""

    def fire_event(self, event, fl_ctx):
        if event == EventType.FATAL_SYSTEM_ERROR:
            raise RuntimeError(fl_ctx.get_prop(FLContextKey.EVENT_DATA))
        for part in [*self.components.values(), *self.workflows]:
            part.handle_event(event, fl_ctx)


@dataclass
class Federation:
    """A finished run: `home` for `fedmr.reports.table`, bytes by task, and the parts to look into."""

    home: Path
    server: Engine
    sites: dict[str, Engine] = field(default_factory=dict)
    messages: list[tuple[str, str, bytes, bytes]] = field(default_factory=list)  # site, task, what it gets and sends
    up: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    down: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    records: dict[str, dict[str, list[Any]]] = field(default_factory=dict)

    def state(self, site: str) -> Path:
        """Folder of what the site keeps."""
        return self.home / site / JOB


class Courier(WFCommSpec):
    """Takes a task to one site after the other, at once.

    `late` is asked, by site and task, whether a reply comes only after the task that follows.
    """

    def __init__(self, federation: Federation, config: dict[str, Any], restart: bool, late):
        self.federation, self.config, self.restart, self.late = federation, config, restart, late
        self._waiting: list[tuple[Client, str, Any]] = []

    def broadcast(self, task, fl_ctx, targets=None, min_responses=1, wait_time_after_min_received=0):
        federation, waiting = self.federation, self._waiting
        self._waiting = []
        for client in [c for c in federation.server.clients if targets is None or c.name in targets]:
            context, client_task = federation.server.new_context(), ClientTask(client, task)
            if task.before_task_sent_cb:
                task.before_task_sent_cb(client_task, context)
            message = fobs.dumps(client_task.task.data)
            reply = fobs.dumps(self._execute(client.name, task.name, fobs.loads(message)))
            federation.messages.append((client.name, task.name, message, reply))
            federation.down[task.name] += len(message)
            federation.up[task.name] += len(reply)
            if self.late(client.name, task.name):
                self._waiting.append((client, task.name, fobs.loads(reply)))
                continue
            client_task.result = fobs.loads(reply)
            client_task.result.set_cookie_jar(client_task.task.data.get_cookie_jar())
            client_task.result.set_peer_props({ReservedKey.IDENTITY_NAME: client.name})
            peer = FLContextManager(None, client.name, JOB).new_context()
            peer.set_prop(FLContextKey.SHAREABLE, client_task.result)
            context.set_peer_context(peer)
            task.result_received_cb(client_task, context)
        for client, name, reply in waiting:
            self.controller.process_result_of_unknown_task(client, name, "", reply, federation.server.new_context())

    def broadcast_and_wait(self, task, fl_ctx, targets=None, *arguments):
        self.broadcast(task, fl_ctx, targets)

    def wait_for_task(self, task, abort_signal):
        """It is over."""

    def get_num_standing_tasks(self):
        return 0

    def cancel_all_tasks(self, *arguments):
        """None is ever under way."""

    def _execute(self, name: str, task: str, message):
        federation = self.federation
        if name not in federation.sites or self.restart:
            site = federation.sites[name] = Engine(federation.home / name, self.config)
            site.components["learner"].threads = 1
            site.components["writer"] = Recorder()
            site.components["writer"].records = federation.records.setdefault(name, defaultdict(list))
            site.executor = site.build_component(self.config["executors"][0]["executor"])
            site.filters = {t: f for c in self.config["task_result_filters"] for t, f in _filters(site, c).items()}
        site, filters = federation.sites[name], federation.sites[name].filters.get(task, [])
        context = site.new_context()
        context.set_prop(FLContextKey.TASK_NAME, task)
        context.set_prop(FLContextKey.TASK_DATA, message, private=True)
        for part in filters:
            part.handle_event(EventType.BEFORE_TASK_EXECUTION, context)
        reply = site.executor.execute(task, message, context, Signal())
        try:
            for part in filters:
                reply = part.process(reply, context)
        except Exception:  # whatever it is, FLARE lets nothing leave then
            return make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR)
        return reply


def _filters(site: Engine, chain: dict[str, Any]) -> dict[str, list[Any]]:
    """A chain's filters, by task; each task has its own."""
    return {task: [site.build_component(part) for part in chain["filters"]] for task in chain["tasks"]}


def federate(
    job: Path, home: Path, data: Path, *, sites=SITES, restart: bool = False, late=lambda *_: False
) -> Federation:
    """Run a rendered job on sites of a data root.

    Args:
        job: job folder.
        home: what would be the simulator's workspace.
        data: data root.
        sites: names, in the order in which they answer.
        restart: whether a site is a new process for every task, as with fewer threads than sites.
        late: see `Courier`.
    """
    flare_decomposers.register()
    common_decomposers.register()
    server, client = (read_hocon(job / side).as_plain_ordered_dict() for side in (SERVER_CONFIG, CLIENT_CONFIG))
    federation = Federation(home, Engine(home / "server", server))
    federation.server.clients = [Client(site, site) for site in sites]
    run = home / "server" / JOB
    shutil.copytree(job / "app" / "config", run / "app_server" / "config")
    (run / "meta.json").write_text(json.dumps({"job_clients": [{"name": site} for site in sites]}))
    # FLARE's workflows collect garbage every round, which takes longer than training in a process with tests' imports
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gc.collect", lambda: 0)
        patch.setenv(DATA_ROOT_VARIABLE, str(data))
        _run(federation, Courier(federation, client, restart, late))
    return federation


def _run(federation: Federation, courier: Courier) -> None:
    server, context = federation.server, federation.server.new_context()
    server.fire_event(EventType.START_RUN, context)
    for workflow in server.workflows:
        workflow.set_communicator(courier)
        workflow.initialize(context)
        workflow.control_flow(Signal(), context)
        workflow.stop_controller(context)
    server.fire_event(EventType.END_RUN, context)
