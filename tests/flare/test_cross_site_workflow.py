"""The workflow of FL-MRCM on FLARE's own task manager, with sites that answer in threads and targets that are late."""

import threading
import time

import numpy as np
import pytest
from nvflare.apis.client import Client
from nvflare.apis.dxo import DXO, DataKind, MetaKey
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.wf_comm_server import WFCommServer
from nvflare.apis.signal import Signal
from pyhocon import ConfigFactory

from federation import Engine
from fedmr.algorithms.flmrcm import LATENTS
from fedmr.federation.render import SERVER_CONFIG
from fedmr.flare.messages import LATENTS_TASK, latents_message, unpack
from simulator import ROOT

SITES = ("site-1", "site-2", "site-3")
ROUNDS = 3


class Sites:
    """Threads that ask for tasks as FLARE's clients do, and what they were given.

    The target's latents tell the round, and those of round 1 come after `latent_timeout`.
    """

    def __init__(self, communicator, engine):
        self.communicator, self.engine, self.over = communicator, engine, threading.Event()
        self.given = {}  # by round and site: the first latent's value, None without latents
        self.threads = [threading.Thread(target=self.work, args=(site,)) for site in SITES]

    def work(self, site):
        while not self.over.wait(0.02):
            name, number, message = self.communicator.process_task_request(Client(site, site), self.context(site))
            if name:
                reply = self.latents(message) if name == LATENTS_TASK else self.train(site, message)
                reply.set_cookie_jar(message.get_cookie_jar())
                reply.set_peer_props({ReservedKey.IDENTITY_NAME: site})
                context = self.context(site, reply)
                self.communicator.process_submission(Client(site, site), name, number, reply, context)

    def context(self, site, reply=None):
        context, peer = self.engine.new_context(), FLContext()
        peer.set_prop(FLContextKey.SHAREABLE, reply)
        peer.set_prop(ReservedKey.IDENTITY_NAME, site, private=False)
        context.set_peer_context(peer)
        return context

    def latents(self, message):
        number = message.get_header("current_round")
        if number == 1:
            time.sleep(2.5)
        return latents_message(np.full((2, 512), number, np.float32)).to_shareable()

    def train(self, site, message):
        weights, beside = unpack(message)
        latents = beside.get(LATENTS)
        self.given[message.get_header("current_round"), site] = None if latents is None else float(latents[0, 0])
        time.sleep(0.1)
        meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 1, MetaKey.INITIAL_METRICS: {"psnr": 30.0}}
        zeros = {name: np.zeros_like(value) for name, value in weights.items()}
        return DXO(DataKind.WEIGHT_DIFF, data=zeros, meta=meta).to_shareable()


@pytest.mark.e2e
@pytest.mark.parametrize("train_target", [True, False])
def test_a_late_target_costs_a_plain_round_and_its_reply_goes_nowhere(tmp_path, monkeypatch, caplog, train_target):
    monkeypatch.setattr("gc.collect", lambda: 0)
    config = ConfigFactory.parse_file(ROOT / "jobs" / "unet_flmrcm" / SERVER_CONFIG).as_plain_ordered_dict()
    (workflow,) = (part for part in config["workflows"] if part["id"] == "train")
    workflow["args"] |= {"num_rounds": ROUNDS, "latent_timeout": 2, "task_check_period": 0.05}
    workflow["args"]["task"]["algorithm"] |= {"target_sites": ["site-3"], "train_target": train_target}
    engine = Engine(tmp_path / "server", config)
    engine.clients = [Client(site, site) for site in SITES]
    controller, communicator, context = engine.workflows[0], WFCommServer(0.05), engine.new_context()
    controller.set_communicator(communicator)
    sites = Sites(communicator, engine)
    engine.fire_event(EventType.START_RUN, context)
    controller.initialize(context)
    communicator.initialize_run(context)
    for thread in sites.threads:
        thread.start()
    controller.control_flow(Signal(), context)
    sites.over.set()
    for thread in sites.threads:
        thread.join()
    communicator.finalize_run(context)
    trained = SITES if train_target else SITES[:2]
    expected = {(n, s): None if n == 1 or s == "site-3" else float(n) for n in range(ROUNDS) for s in trained}
    assert sites.given == expected
    assert "round 1 trains plainly, without latents of target site site-3: it did not answer within 2 s" in caplog.text
    assert caplog.text.count("trains plainly") == 1
    assert "Ignoring result from unknown task" in caplog.text
