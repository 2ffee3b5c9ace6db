from pathlib import Path

import pytest
import tenseal
import torch
from typer.testing import CliRunner

import he_context
from fedmr.checkpoints.model_file import load_model
from fedmr.cli.main import app
from fedmr.federation.render import read_task
from fedmr.nets import build
from fedmr.privacy.bfv import Key
from fedmr.privacy.packing import CIPHERTEXTS, HEADER, Packing, encrypt
from fedmr.tasks.registry import build_task
from simulator import render_tiny_job


@pytest.fixture(scope="module")
def contexts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("startup")
    for number in range(2):
        for name, content in he_context.contexts(number).items():
            (folder / f"{number}_{name}").write_bytes(content)
    (folder / "nonsense").write_bytes(b"nonsense")
    return folder


@pytest.fixture(scope="module")
def tiny_job(tmp_path_factory) -> Path:
    return render_tiny_job(tmp_path_factory.mktemp("job"), job="mscan_fedavg_he_packed")


@pytest.fixture(scope="module")
def net(tiny_job):
    return build(**build_task(read_task(tiny_job)).network)


def packed(net) -> dict:
    """What the server of the packed job saves."""
    model, _ = encrypt(net.state_dict(), 5, Key(he_context.client()), Packing())
    meta = {"PROCESSED_ALGORITHM": "BFV", "PROCESSED_KEYS": {CIPHERTEXTS: True}, HEADER: model.header()}
    return {"model": {CIPHERTEXTS: model.ciphertexts}, "meta_props": meta}


def stock(net) -> dict:
    """What the server of FLARE's own HE job saves; the first variable is left in plaintext."""
    context = tenseal.context_from(he_context.client())
    weights = {n: tenseal.ckks_vector(context, v.flatten().numpy()).serialize() for n, v in net.state_dict().items()}
    first = next(iter(weights))
    weights[first] = net.state_dict()[first]
    return {"model": weights, "meta_props": {"PROCESSED_ALGORITHM": "CKKS", "PROCESSED_KEYS": {}}}


SAVED = {"packed": packed, "stock": stock}


@pytest.fixture(scope="module", params=SAVED)
def saved(request, net, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp(request.param) / "FL_global_model.pt"
    torch.save(SAVED[request.param](net), path)
    return path


def run(*words) -> str:
    """Output, or the error's text."""
    result = CliRunner().invoke(app, list(map(str, words)))
    return str(result.exception) if result.exception else result.output


def test_a_site_makes_a_usable_model_of_an_encrypted_one(saved, contexts, tiny_job, net, tmp_path):
    out = tmp_path / "model.pt"
    words = ("decrypt", saved, "--context", contexts / "0_client_context.tenseal", "-o", out, "--job", tiny_job)
    assert "wrote" in run(*words)
    model = load_model(out)  # with its card, so without the job
    for name, value in net.state_dict().items():
        assert model.net.state_dict()[name] == pytest.approx(value, abs=1e-5)
    assert "exists; name another place" in run(*words)
    assert "wrote" in run(*words, "--force")


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ("0_server_context.tenseal", "holds no secret key, as a server's"),
        ("1_client_context.tenseal", "take that of its run|use a context of the same provisioning"),
        ("nonsense", "no TenSEAL context"),
        ("absent", "No such file"),
    ],
)
def test_without_the_sites_key_nothing_is_decrypted_or_written(saved, contexts, tiny_job, tmp_path, context, message):
    with pytest.raises((ValueError, OSError), match=message):
        load_model(saved, tiny_job, contexts / context)
    out = tmp_path / "model.pt"
    run("decrypt", saved, "--context", contexts / context, "-o", out, "--job", tiny_job)
    assert not out.exists()


def test_an_encrypted_model_says_so_wherever_a_model_is_expected(saved, tiny_job):
    with pytest.raises(ValueError, match=r"is encrypted \((BFV|CKKS)\).*fedmr decrypt"):
        load_model(saved, tiny_job)


def test_a_model_that_is_not_encrypted_is_not_decrypted(contexts, tiny_job, net, tmp_path):
    torch.save({"model": net.state_dict()}, tmp_path / "plain.pt")
    with pytest.raises(ValueError, match="is not encrypted; use it as it is"):
        load_model(tmp_path / "plain.pt", tiny_job, contexts / "0_client_context.tenseal")


def damage(content: dict, name: str) -> dict:
    if name == "header":
        content["meta_props"][HEADER] = None
    elif name == "algorithm":
        content["meta_props"]["PROCESSED_ALGORITHM"] = "rot13"
    elif name == "ciphertext":
        content["model"][CIPHERTEXTS] = [b"damaged" for _ in content["model"][CIPHERTEXTS]]
    else:
        content["model"] = {"of": b"another"}
    return content


@pytest.mark.parametrize("name", ["header", "algorithm", "ciphertext", "model"])
def test_a_damaged_file_is_one_clear_error(name, contexts, tiny_job, net, tmp_path):
    torch.save(damage(packed(net), name), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt cannot be decrypted by .*context\.tenseal: it"):
        load_model(tmp_path / "model.pt", tiny_job, contexts / "0_client_context.tenseal")


def of_another_size() -> bytes:
    return tenseal.ckks_vector(tenseal.context_from(he_context.client()), [0.0] * 99).serialize()


@pytest.mark.parametrize(
    ("value", "message"), [(lambda: b"damaged", "does not decrypt"), (of_another_size, "is of another network")]
)
def test_a_damaged_file_of_flares_own_he_is_one_clear_error(value, message, contexts, tiny_job, net, tmp_path):
    content = stock(net)
    content["model"][list(content["model"])[-1]] = value()
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "model.pt", tiny_job, contexts / "0_client_context.tenseal")
