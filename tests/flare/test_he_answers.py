"""What a site answers to a server that changes the encrypted model: one and the same, and little."""

import dataclasses

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable

from fedmr.privacy.key_lock import FAILURES_FILE, MOST_FAILURES, KeyLockedError
from fedmr.privacy.packing import CIPHERTEXTS, HEADER, Encrypted, Packing, Sum, layout_of
from he_federation import (
    MODEL,
    Site,
    begin,
    make_sites,
    reply,
)


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    return make_sites(tmp_path_factory.mktemp("kit"))


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
