"""The packed scheme among FLARE's own controller, guard and model selection, with sites in this process."""

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.filter import ContentBlockedException
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.abstract.model import ModelLearnableKey, make_model_learnable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.fuel.sec.security_content_service import SecurityContentManager, SecurityContentService

import he_context
from fedmr.aggregation.guard import read_rejections
from fedmr.flare.aggregators import WeightedAggregator
from fedmr.flare.guard import ServerGuard, SiteGuard
from fedmr.flare.he import PackedAggregator, PackedDecryptor, PackedEncryptor, PackedPersistor
from fedmr.privacy.key_lock import FAILURES_FILE, MOST_FAILURES, KeyLockedError
from fedmr.privacy.packing import CIPHERTEXTS, HEADER, Encrypted, Packing, Sum, layout_of
from fedmr.utils.errors import UnsafeError
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


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    return make_sites(tmp_path_factory.mktemp("kit"))


def test_the_model_is_that_of_the_plain_federation_and_the_server_never_has_it(tmp_path):
    sites = make_sites(tmp_path / "kit")
    server, weights = serve(tmp_path, sites)
    assert server.panic is None
    assert list(weights) == [CIPHERTEXTS]
    assert all(isinstance(one, bytes) for one in weights[CIPHERTEXTS])
    assert same(decrypted(server, sites["site-1"]), plain(tmp_path))
    assert server.selector.best_val_metric == pytest.approx(32)
    assert read_rejections(server.run_folder) == []


def test_all_sites_train_from_the_same_decrypted_model(tmp_path):
    sites = make_sites(tmp_path / "kit")
    serve(tmp_path, sites)
    for number in range(ROUNDS):
        models = [site.models[number] for site in sites.values()]
        assert all(np.array_equal(m[n], models[0][n]) for m in models for n in MODEL)
        assert {n: v.shape for n, v in models[0].items()} == {n: v.shape for n, v in MODEL.items()}


def bare(reply):
    """The site has no encryptor."""
    return train("site-2", 0)


def disguised(reply):
    """Plaintext that says it is encrypted."""
    dxo = from_shareable(train("site-2", 0))
    return DXO(DataKind.WEIGHTS, dxo.data, from_shareable(reply).meta).to_shareable()


def change(*, header=None, meta=None, ciphertexts=None):
    """Replace a part of the message."""

    def changed(reply):
        dxo = from_shareable(reply)
        dxo.meta[HEADER] = dxo.meta[HEADER] | (header or {})
        dxo.meta |= meta or {}
        if ciphertexts is not None:
            dxo.data[CIPHERTEXTS] = ciphertexts
        return dxo.to_shareable()

    return changed


WRONG = {
    "plaintext": (bare, "WEIGHT_DIFF, encrypted by None; WEIGHTS by BFV are expected"),
    "plaintext in disguise": (disguised, "no packed ciphertexts, but plaintext"),
    "another algorithm": (change(meta={MetaKey.PROCESSED_ALGORITHM: "CKKS"}), "encrypted by CKKS"),
    "a variable too many": (change(header={"layout": {"w": [50, 7], "b": [], "x": [2]}}), "'x' has the shape"),
    "a variable missing": (change(header={"layout": {"w": [50, 7]}}), "'b' has the shape none"),
    "another length": (change(header={"layout": {"w": [50, 8], "b": []}}), "'w' has the shape"),
    "another packing": (change(header={"packing": dataclasses.asdict(Packing(clip=4))}), "it was packed by"),
    "no header": (change(meta={HEADER: None}), "header is damaged"),
    "another key": (change(header={"key": "0123456789abcdef"}), "it was encrypted with the key"),
    "two numbers of steps": (change(meta={MetaKey.NUM_STEPS_CURRENT_ROUND: 51}), "two numbers of steps"),
    "garbage": (change(ciphertexts=[b"no ciphertext"]), "no ciphertext"),
    "too few ciphertexts": (change(ciphertexts=[]), "0 ciphertexts for 352 values"),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_aggregator_refuses_by_name_what_is_wrong_even_without_the_guard(name, kits, caplog):
    sent, reason = WRONG[name]
    aggregator, fl_ctx = PackedAggregator(), round_context()
    good = {site: reply(kits[site]) for site in SITES}
    assert aggregator.accept(good["site-1"], fl_ctx)
    assert not aggregator.accept(addressed("site-2", sent(good["site-2"])), fl_ctx)
    assert re.search(f"site-2 . refused: .*{reason}", caplog.text)
    assert aggregator.accept(good["site-3"], fl_ctx)
    result = from_shareable(aggregator.aggregate(fl_ctx))
    assert result.meta[HEADER]["steps"] == STEPS["site-1"] + STEPS["site-3"]


def test_a_second_update_of_a_site_and_one_of_another_round_are_refused(kits, caplog):
    aggregator, fl_ctx = PackedAggregator(), round_context()
    assert aggregator.accept(reply(kits["site-1"]), fl_ctx)
    assert not aggregator.accept(reply(kits["site-1"]), fl_ctx)
    assert "there is one of this site" in caplog.text
    late = reply(kits["site-2"])
    late.add_cookie(AppConstants.CONTRIBUTION_ROUND, 7)
    assert not aggregator.accept(late, fl_ctx)
    assert "it is of another round" in caplog.text
    aggregator.reset(fl_ctx)
    assert aggregator.accept(reply(kits["site-1"]), fl_ctx)


def test_without_updates_there_are_no_weights():
    assert from_shareable(PackedAggregator().aggregate(round_context())).data == {}


@pytest.mark.parametrize("name", ["plaintext", "plaintext in disguise"])
def test_the_rounds_go_on_without_a_site_that_sends_plaintext(name, tmp_path):
    sites = make_sites(tmp_path / "kit", **{"site-2": {"sent": WRONG[name][0]}})
    server, _ = serve(tmp_path, sites)
    assert server.panic is None
    assert [(r["round"], r["site"]) for r in read_rejections(server.run_folder)] == [(n, "site-2") for n in range(3)]
    assert same(decrypted(server, sites["site-1"]), plain(tmp_path, ["site-1", "site-3"]))


def test_with_too_few_sites_left_the_job_ends_and_the_last_model_is_kept(tmp_path):
    sites = make_sites(tmp_path / "kit", **{"site-2": {"sent": bare}})
    server, weights = serve(tmp_path, sites, min_sites=3)
    assert "round 0 has at most 2 of 3 updates and needs 3" in server.panic
    assert weights is MODEL or list(weights) == list(MODEL)


def test_the_key_of_the_encrypted_model_is_the_sites_from_then_on(kits, tmp_path, caplog):
    """Also after a restart from that model, when the aggregator has seen no site yet."""
    foreign = Site(tmp_path, "site-2", number=1)
    model = make_model_learnable({}, from_shareable(reply(kits["site-1"])).meta)
    aggregator, fl_ctx = PackedAggregator(), round_context(model)
    assert not aggregator.accept(reply(foreign), fl_ctx)
    assert aggregator.accept(reply(kits["site-2"]), fl_ctx)
    assert re.search("site-2 . refused: it was encrypted with the key", caplog.text)


def not_finite(reply):
    dxo = from_shareable(reply)
    dxo.data["w"][3, 3] = np.nan
    return dxo.to_shareable()


def test_values_that_are_not_finite_never_leave_the_site(tmp_path, kits):
    sites = make_sites(tmp_path / "kit", **{"site-2": {"spoil": not_finite}})
    server, _ = serve(tmp_path, sites, rounds=1)
    (record,) = read_rejections(server.run_folder)
    assert record["site"] == "site-2"
    assert "withheld by the site: 'w' is not finite in 1 of 350 values" in record["reason"]
    with pytest.raises(UnsafeError, match="NaN or infinite"):
        kits["site-1"].encryptor.process(not_finite(begin(kits["site-1"])), kits["site-1"].fl_ctx)


@pytest.mark.parametrize("kind", [DataKind.WEIGHTS, DataKind.ANALYTIC])
def test_the_encryptor_blocks_all_that_is_no_update(kind, kits):
    message = DXO(kind, data=dict(MODEL)).to_shareable()
    with pytest.raises(ContentBlockedException):
        kits["site-1"].encryptor.process(message, kits["site-1"].fl_ctx)


def test_the_encryptor_blocks_an_update_of_other_variables(kits):
    message = DXO(DataKind.WEIGHT_DIFF, data={"w": MODEL["w"]}).to_shareable()
    with pytest.raises(ContentBlockedException):
        kits["site-1"].encryptor.process(message, kits["site-1"].fl_ctx)


def test_an_error_passes_the_encryptor(kits):
    message = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    assert kits["site-1"].encryptor.process(message, kits["site-1"].fl_ctx) is message


def test_clipped_weights_are_counted_in_the_sites_log(tmp_path, caplog):
    def spoil(reply):
        dxo = from_shareable(reply)
        dxo.data["w"] = dxo.data["w"] + np.where(np.arange(7) == 0, np.float32(1e3), np.float32(0))
        return dxo.to_shareable()

    site = Site(tmp_path, "site-1")
    site.encryptor.process(spoil(begin(site)), site.fl_ctx)
    assert "site-1 | encrypted into" in caplog.text
    assert "50 weights clipped to 8" in caplog.text


def test_a_context_without_flares_signature_ends_the_run_at_the_site(tmp_path):
    site = Site(tmp_path, "site-1")
    site.fl_ctx.set_prop(FLContextKey.SECURE_MODE, True)
    with pytest.raises(ValueError, match=r"NOT_SIGNED|notSigned"):
        site.fire(EventType.START_RUN)


def test_after_the_run_the_key_is_gone(tmp_path):
    site = Site(tmp_path, "site-1")
    reply(site)
    site.fire(EventType.END_RUN)
    with pytest.raises(RuntimeError, match="is not loaded"):
        site.encryptor.process(train("site-1", 0), site.fl_ctx)


def test_the_persistor_saves_and_loads_the_encrypted_model_and_says_that_it_is(tmp_path, kits):
    net = torch.nn.Linear(7, 50)
    persistor, fl_ctx = PackedPersistor(model=net), FLContext()
    fl_ctx.set_prop(FLContextKey.APP_ROOT, str(tmp_path), private=True)
    persistor.handle_event(EventType.START_RUN, fl_ctx)
    assert set(persistor.load(fl_ctx)[ModelLearnableKey.WEIGHTS]) == {"weight", "bias"}
    update = from_shareable(reply(kits["site-1"]))
    for seed in range(2):
        update.data[CIPHERTEXTS] = [bytes([seed])]
        persistor.save(make_model_learnable(update.data, update.meta), fl_ctx)
    best = make_model_learnable({CIPHERTEXTS: [b"best"]}, update.meta)
    fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, best, private=True)
    persistor.handle_event(AppEventType.GLOBAL_BEST_MODEL_AVAILABLE, fl_ctx)
    assert set(persistor.get_model_inventory(fl_ctx)) == {"FL_global_model.pt", "best_FL_global_model.pt"}
    for file, content in (("FL_global_model.pt", b"\1"), ("best_FL_global_model.pt", b"best")):
        saved = torch.load(tmp_path / file, weights_only=True)
        assert saved["model"] == {CIPHERTEXTS: [content]}
        assert saved["meta_props"][MetaKey.PROCESSED_ALGORITHM] == "BFV"
        loaded = persistor.get(file, fl_ctx)
        assert loaded[ModelLearnableKey.WEIGHTS] == {CIPHERTEXTS: [content]}
        assert loaded[ModelLearnableKey.META][HEADER] == update.meta[HEADER]
    again = PackedPersistor(model=net, source_ckpt_file_full_name=str(tmp_path / "FL_global_model.pt"))
    again.handle_event(EventType.START_RUN, fl_ctx)
    assert again.load(fl_ctx)[ModelLearnableKey.WEIGHTS] == {CIPHERTEXTS: [b"\1"]}


def model_of(kits, change=lambda model: model):
    """An encrypted global model as the server sends it, changed."""
    total = Sum(layout_of(MODEL), Packing())
    for site in kits.values():
        total.add(Encrypted.from_parts(*_parts(from_shareable(reply(site)))))
    model = change(total.result())
    meta = {MetaKey.PROCESSED_ALGORITHM: "BFV", HEADER: model.header()}
    return DXO(DataKind.WEIGHTS, {CIPHERTEXTS: model.ciphertexts}, meta)


def _parts(dxo):
    return dxo.data, dxo.meta[HEADER]


def answer(site, dxo):
    """All that the server learns of what a site does with a model: an exception's type and text, or weights."""
    try:
        return from_shareable(site.decryptor.process(dxo.to_shareable(), site.fl_ctx)).data
    except Exception as error:
        return type(error).__name__, str(error)


def damaged(model):
    content = bytearray(model.ciphertexts[0])
    content[-1] ^= 255
    return dataclasses.replace(model, ciphertexts=[bytes(content), *model.ciphertexts[1:]])


LIES = {
    "fewer steps": lambda m: dataclasses.replace(m, steps=1),
    "more steps": lambda m: dataclasses.replace(m, steps=m.steps + 1),
    "steps beyond all sites": lambda m: dataclasses.replace(m, steps=10**9),
    "another resolution": lambda m: dataclasses.replace(m, packing=Packing(resolution=2e-3, clip=8000.0)),
    "another clip": lambda m: dataclasses.replace(m, packing=Packing(clip=4.0)),
    "another layout": lambda m: dataclasses.replace(m, layout={"w": [351]}),
    "variables swapped": lambda m: dataclasses.replace(m, layout=dict(reversed(m.layout.items()))),
    "damaged": damaged,
    "garbage": lambda m: dataclasses.replace(m, ciphertexts=[b"x"]),
    "another key's name": lambda m: dataclasses.replace(m, key="0123456789abcdef"),
}


@pytest.fixture
def fresh(tmp_path):
    """Sites that have received the first round's model."""
    sites = make_sites(tmp_path / "kit")
    for site in sites.values():
        assert answer(site, DXO(DataKind.WEIGHTS, dict(MODEL)))
    return sites


def test_an_honest_model_is_decrypted_however_often(fresh):
    dxo = model_of(fresh)
    for _ in range(2 * MOST_FAILURES):
        assert set(answer(fresh["site-1"], dxo)) == set(MODEL)


def test_whatever_the_server_changes_the_site_gives_one_and_the_same_answer(fresh):
    honest = model_of(fresh)
    plain = {
        "plaintext": DXO(DataKind.WEIGHTS, {name: value + 1 for name, value in MODEL.items()}),
        "no weights": DXO(DataKind.METRICS, {"psnr": 1.0}),
        "another algorithm": DXO(DataKind.WEIGHTS, honest.data, honest.meta | {MetaKey.PROCESSED_ALGORITHM: "X"}),
    }
    lies = plain | {name: model_of(fresh, change=lie) for name, lie in LIES.items()}
    answers = {}
    for name, dxo in lies.items():
        site = fresh["site-1"]
        answers[name] = answer(site, dxo)
        (site.local / FAILURES_FILE).unlink()
    assert set(answers.values()) == {("ContentBlockedException", "the site refuses the model")}, answers


def test_after_some_refusals_the_site_keeps_its_key_to_itself_until_its_owner_acts(fresh, tmp_path):
    site, honest, lie = fresh["site-1"], model_of(fresh), model_of(fresh, change=damaged)
    for _ in range(MOST_FAILURES):
        assert answer(site, lie)[0] == "ContentBlockedException"
    for dxo in (honest, lie, honest):
        assert answer(site, dxo)[0] == KeyLockedError.__name__
    again = Site(tmp_path / "kit", "site-1")  # another job, another process
    assert answer(again, honest)[0] == KeyLockedError.__name__
    (site.local / FAILURES_FILE).write_text("damaged")
    assert answer(again, honest)[0] == KeyLockedError.__name__
    (site.local / FAILURES_FILE).unlink()
    assert set(answer(again, honest)) == set(MODEL)


def test_a_server_that_tries_ciphertexts_of_its_own_gets_few_answers(fresh):
    """The reaction attack took 6,805."""
    site, rng, told = fresh["site-1"], np.random.default_rng(0), 0
    content = model_of(fresh)
    for _ in range(50):
        forged = bytearray(content.data[CIPHERTEXTS][0])
        forged[int(rng.integers(100, len(forged)))] ^= int(rng.integers(1, 256))
        said = answer(site, DXO(DataKind.WEIGHTS, {CIPHERTEXTS: [bytes(forged)]}, content.meta))
        told += said[0] == "ContentBlockedException"
    assert told == MOST_FAILURES


def test_the_first_plaintext_model_may_come_again_and_no_other(fresh):
    site = fresh["site-1"]
    assert answer(site, DXO(DataKind.WEIGHTS, dict(MODEL))).keys() == MODEL.keys()
    assert set(answer(site, model_of(fresh))) == set(MODEL)
    other = DXO(DataKind.WEIGHTS, {"w": MODEL["w"] * 1.01, "b": MODEL["b"]})
    assert answer(site, other) == ("ContentBlockedException", "the site refuses the model")


def test_metrics_beside_an_encrypted_update_leave_rounded(kits):
    dxo = from_shareable(begin(kits["site-1"]))
    dxo.meta[MetaKey.INITIAL_METRICS] = {"psnr": 31.23456789}
    sent = from_shareable(kits["site-1"].encryptor.process(dxo.to_shareable(), kits["site-1"].fl_ctx))
    assert sent.meta[MetaKey.INITIAL_METRICS] == {"psnr": 31.23}
