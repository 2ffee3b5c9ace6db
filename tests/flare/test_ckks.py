"""FLARE's own encryption at a site that a server wants something from."""

from types import SimpleNamespace

import numpy as np
import pytest
import tenseal
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.filter import ContentBlockedException
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import make_reply
from nvflare.app_opt.he.constant import HE_ALGORITHM_CKKS
from nvflare.fuel.sec.security_content_service import SecurityContentManager, SecurityContentService

import he_context
from fedmr.flare.ckks import CkksDecryptor, CkksEncryptor
from fedmr.privacy.key_lock import FAILURES_FILE, MOST_FAILURES, KeyLockedError

MODEL = {"w": np.linspace(-1, 1, 12).astype(np.float32), "b": np.ones(3, np.float32)}
NAMES = tuple(MODEL)


@pytest.fixture
def fl_ctx(tmp_path):
    for file, content in he_context.contexts(0).items():
        (tmp_path / file).write_bytes(content)
    SecurityContentService.security_content_manager = SecurityContentManager(str(tmp_path))
    context = FLContext()
    context.set_prop(ReservedKey.IDENTITY_NAME, "site-1")
    context.set_prop(FLContextKey.SECURE_MODE, False)
    workspace = SimpleNamespace(get_site_config_dir=lambda: str(tmp_path))
    engine = SimpleNamespace(get_workspace=lambda: workspace, fire_event=lambda *_: None)
    context.set_prop(ReservedKey.ENGINE, engine, private=True)
    peer = FLContext()
    peer.set_prop(ReservedKey.IDENTITY_NAME, "server", private=False)
    context.set_peer_context(peer)
    return context


@pytest.fixture
def decryptor(fl_ctx):
    found = CkksDecryptor()
    found.handle_event(EventType.START_RUN, fl_ctx)
    return found


def plain(**changes):
    return DXO(DataKind.WEIGHTS, data={n: v.copy() for n, v in (MODEL | changes).items()}).to_shareable()


def encrypted(values=None, keys=None, algorithm=HE_ALGORITHM_CKKS, **changes):
    context = tenseal.context_from(he_context.client())
    arrays = (MODEL if values is None else values) | changes
    data = {
        name: value if isinstance(value, bytes) else tenseal.ckks_vector(context, np.ravel(value)).serialize()
        for name, value in arrays.items()
    }
    meta = {MetaKey.PROCESSED_KEYS: dict.fromkeys(data, True) if keys is None else keys}
    return DXO(DataKind.WEIGHTS, data=data, meta=meta | {MetaKey.PROCESSED_ALGORITHM: algorithm}).to_shareable()


def test_an_honest_run_is_decrypted_to_the_weights(decryptor, fl_ctx, tmp_path):
    decryptor.process(plain(), fl_ctx)
    found = from_shareable(decryptor.process(encrypted(), fl_ctx)).data
    assert all(np.allclose(found[name], MODEL[name], atol=1e-5) for name in NAMES)
    assert not (tmp_path / FAILURES_FILE).exists()


HOSTILE = {
    "another plaintext": lambda: plain(w=np.zeros(12, np.float32)),
    "one variable in the clear": lambda: encrypted(keys={"w": False, "b": True}),
    "garbage": lambda: encrypted(w=b"x" * 100),
    "another algorithm": lambda: encrypted(algorithm="mine"),
    "no keys": lambda: encrypted(keys={}),
    "huge": lambda: encrypted(w=np.full(12, 1e6)),
    "another size": lambda: encrypted(w=np.zeros(11)),
    "another name": lambda: encrypted({"w": MODEL["w"], "x": MODEL["b"]}),
    "fewer": lambda: encrypted({"w": MODEL["w"]}),
    "nothing": lambda: DXO(DataKind.WEIGHTS, data={}, meta={MetaKey.PROCESSED_ALGORITHM: "x"}).to_shareable(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_honest_server_sends_gets_one_answer_and_is_counted(name, decryptor, fl_ctx, tmp_path):
    decryptor.process(plain(), fl_ctx)
    with pytest.raises(ContentBlockedException) as caught:
        decryptor.process(HOSTILE[name](), fl_ctx)
    assert str(caught.value) == "the site refuses the model"
    assert (tmp_path / FAILURES_FILE).exists()


def test_after_a_few_refusals_the_key_is_locked_for_all_jobs(decryptor, fl_ctx):
    decryptor.process(plain(), fl_ctx)
    for _ in range(MOST_FAILURES):
        with pytest.raises(ContentBlockedException):
            decryptor.process(HOSTILE["garbage"](), fl_ctx)
    again = CkksDecryptor()
    again.handle_event(EventType.START_RUN, fl_ctx)
    for message in (plain(), encrypted()):
        with pytest.raises(KeyLockedError):
            again.process(message, fl_ctx)


def test_the_encryptor_encrypts_all_and_rounds_the_metrics(fl_ctx):
    encryptor = CkksEncryptor()
    encryptor.handle_event(EventType.START_RUN, fl_ctx)
    meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 3, MetaKey.INITIAL_METRICS: {"psnr": 31.23456789}}
    update = DXO(DataKind.WEIGHT_DIFF, data={n: v.copy() for n, v in MODEL.items()}, meta=meta)
    sent = from_shareable(encryptor.process(update.to_shareable(), fl_ctx))
    assert sent.get_meta_prop(MetaKey.PROCESSED_KEYS) == dict.fromkeys(NAMES, True)
    assert sent.get_meta_prop(MetaKey.INITIAL_METRICS)["psnr"] == pytest.approx(31.23, abs=0.005)
    with pytest.raises(TypeError):
        CkksEncryptor(encrypt_layers=["b"])


def test_metrics_of_a_test_leave_rounded_and_all_else_is_blocked(fl_ctx):
    encryptor = CkksEncryptor()
    encryptor.handle_event(EventType.START_RUN, fl_ctx)
    result = DXO(DataKind.METRICS, {"model": {"psnr": 31.23456789}}).to_shareable()
    assert from_shareable(encryptor.process(result, fl_ctx)).data == {"model": {"psnr": 31.23}}
    with pytest.raises(ContentBlockedException):
        encryptor.process(DXO(DataKind.ANALYTIC, {"x": 1.0}).to_shareable(), fl_ctx)
    failed = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    assert encryptor.process(failed, fl_ctx) is failed
