"""The packed scheme among FLARE's own controller, guard and model selection, with sites in this process."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.filter import ContentBlockedException
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import make_reply
from nvflare.app_common.abstract.model import ModelLearnableKey, make_model_learnable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType

from fedmr.flare.he import PackedAggregator, PackedPersistor
from fedmr.privacy.packing import CIPHERTEXTS, HEADER, Packing
from fedmr.runs.records import read_rejections
from fedmr.utils.errors import UnsafeError
from he_federation import (
    MODEL,
    ROUNDS,
    SITES,
    STEPS,
    Site,
    addressed,
    begin,
    decrypted,
    make_sites,
    plain,
    reply,
    round_context,
    same,
    serve,
    train,
)


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


def test_metrics_of_a_test_leave_rounded_and_nothing_beside_them(kits):
    """A server can change ciphertexts without the key: exact figures of what it made would tell of the weights."""
    encryptor, fl_ctx = kits["site-1"].encryptor, kits["site-1"].fl_ctx
    exact = {"model": {"psnr": 31.23456789, "ssim": 0.91234567}, "n_volumes": 3}
    sent = from_shareable(encryptor.process(DXO(DataKind.METRICS, exact, {"x": "more"}).to_shareable(), fl_ctx))
    assert sent.data == {"model": {"psnr": 31.23, "ssim": 0.9123}, "n_volumes": 3}
    assert "x" not in sent.meta
    with pytest.raises(UnsafeError, match="no known metric"):
        encryptor.process(DXO(DataKind.METRICS, {"weights": 0.123456789}).to_shareable(), fl_ctx)


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
