"""Sites and a server of the packed scheme in this process."""

from types import SimpleNamespace

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.model import ModelLearnableKey, make_model_learnable
from nvflare.app_common.app_constant import AppConstants
from nvflare.fuel.sec.security_content_service import SecurityContentManager, SecurityContentService

import he_context
from fedmr.flare.aggregators import WeightedAggregator
from fedmr.flare.guard import ServerGuard, SiteGuard
from fedmr.flare.he import PackedAggregator, PackedDecryptor, PackedEncryptor
from server import Server

LIMITS = {"learning_rate": 1e-2}


MODEL = {"w": np.ones((50, 7), np.float32), "b": np.zeros((), np.float32)}


STEPS = {"site-1": 3, "site-2": 50, "site-3": 7}


SITES = tuple(STEPS)


ROUNDS = 3


class Site:
    """A site with the filters of the job, as FLARE applies them; its training adds noise that depends on the round.

    `spoil` changes what training gave, `sent` what the filters gave.
    """

    def __init__(self, folder, name, *, number=0, spoil=None, sent=None):
        for file, content in he_context.contexts(number).items():
            (folder / file).write_bytes(content)
        SecurityContentService.security_content_manager = SecurityContentManager(str(folder))  # one per process
        self.name, self.spoil, self.sent, self.local = name, spoil, sent, folder / name
        self.local.mkdir(exist_ok=True)
        self.decryptor, self.guard, self.encryptor = PackedDecryptor(), SiteGuard(LIMITS), PackedEncryptor()
        self.models = []
        self.fl_ctx = FLContext()
        self.fl_ctx.set_prop(ReservedKey.IDENTITY_NAME, name)
        self.fl_ctx.set_prop(FLContextKey.SECURE_MODE, False)
        workspace = SimpleNamespace(get_site_config_dir=lambda: str(self.local))
        engine = SimpleNamespace(get_workspace=lambda: workspace, fire_event=lambda *_: None)
        self.fl_ctx.set_prop(ReservedKey.ENGINE, engine, private=True)
        self.fl_ctx.set_prop(FLContextKey.TASK_NAME, AppConstants.TASK_TRAIN)
        self.fire(EventType.START_RUN)

    def fire(self, event):
        for one in (self.decryptor, self.guard, self.encryptor):
            one.handle_event(event, self.fl_ctx)

    def __call__(self, message: Shareable) -> Shareable:
        number = message.get_header(AppConstants.CURRENT_ROUND)
        task = self.decryptor.process(message, self.fl_ctx)
        self.models.append(from_shareable(task).data)
        self.fl_ctx.set_prop(FLContextKey.TASK_DATA, task, private=True, sticky=False)
        self.fire(EventType.BEFORE_TASK_EXECUTION)
        reply = train(self.name, number)
        reply = self.spoil(reply) or reply if self.spoil else reply
        for one in (self.guard, self.encryptor):
            reply = one.process(reply, self.fl_ctx)
        return self.sent(reply) or reply if self.sent else reply


def train(name, number):
    rng = np.random.default_rng([SITES.index(name), number])
    update = {n: np.asarray(rng.normal(size=v.shape) * 1e-3, np.float32) for n, v in MODEL.items()}
    meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: STEPS[name], MetaKey.INITIAL_METRICS: {"psnr": 30.0 + number}}
    return DXO(DataKind.WEIGHT_DIFF, data=update, meta=meta).to_shareable()


def serve(folder, sites, *, min_sites=2, rounds=ROUNDS, guard=True, model=MODEL):
    """A finished server, and its model as a site decrypts it."""
    filters = [ServerGuard(LIMITS, min_sites, DataKind.WEIGHTS, encrypted=True)] if guard else []
    server = Server(folder / "server", sites, *filters, aggregator=PackedAggregator(), rounds=rounds)
    weights = server.train(model)
    return server, weights


def decrypted(server, site):
    learnable = server._global_weights
    message = DXO(DataKind.WEIGHTS, learnable[ModelLearnableKey.WEIGHTS], learnable[ModelLearnableKey.META])
    return from_shareable(site.decryptor.process(message.to_shareable(), site.fl_ctx)).data


def make_sites(folder, names=SITES, **changes):
    folder.mkdir(exist_ok=True)
    return {name: Site(folder, name, **changes.get(name, {})) for name in names}


def plain(folder, names=SITES):
    """The same federation without encryption."""
    answers = {name: lambda message, n=name: train(n, message.get_header(AppConstants.CURRENT_ROUND)) for name in names}
    bounds = {"weight": 1e9}  # ciphertexts count by the steps that come with them
    return Server(folder / "plain", answers, aggregator=WeightedAggregator(bounds), rounds=ROUNDS).train(MODEL)


def same(a, b, atol=1e-6):
    return all(np.allclose(a[name], b[name], rtol=0, atol=atol) for name in MODEL)


def begin(site, number=0):
    """The first round's training at a site, before its filters."""
    task = DXO(DataKind.WEIGHTS, dict(MODEL)).to_shareable()
    site.fl_ctx.set_prop(FLContextKey.TASK_DATA, task, private=True, sticky=False)
    site.fire(EventType.BEFORE_TASK_EXECUTION)
    return train(site.name, number)


def addressed(name, message):
    """As the server receives it."""
    message.set_peer_props({ReservedKey.IDENTITY_NAME: name})
    message.add_cookie(AppConstants.CONTRIBUTION_ROUND, 0)
    return message


def reply(site):
    """A site's encrypted update, as the server receives it."""
    return addressed(site.name, site.encryptor.process(begin(site), site.fl_ctx))


def round_context(model=None):
    fl_ctx = FLContext()
    fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, model or make_model_learnable(dict(MODEL), {}), private=True)
    fl_ctx.set_prop(AppConstants.CURRENT_ROUND, 0, private=True)
    return fl_ctx
