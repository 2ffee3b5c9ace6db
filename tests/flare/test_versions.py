"""Versions across sites, at FLARE's own server side."""

import json

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, MetaKey

from fedmr.flare.guard import ServerGuard
from fedmr.flare.versions import (
    VERSIONS,
    VERSIONS_FILE,
    differences,
    fault_of_versions,
    own_versions,
    read_versions,
)
from fedmr.runs.records import read_rejections
from server import Server

OWN = own_versions()
MODEL = {"w": np.zeros(4, np.float32)}


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({}, False),
        ({"fedmr": "9.0.0"}, True),
        ({"nvflare": "2.7.1"}, True),
        ({"nvflare": ".".join([*OWN["nvflare"].split(".")[:2], "77"])}, False),
        ({"torch": "1.0"}, False),
        ({"monai": "1.0"}, False),
    ],
)
def test_what_matters_is_refused_by_name_and_all_else_reported(change, refused):
    fault = fault_of_versions(OWN | change, OWN)
    assert (fault is not None) == refused
    for name, version in change.items():
        assert not refused or f"{name} {version}" in fault
        assert differences(OWN | change, OWN) == [f"{name} {version}, the server {OWN[name]}"]


@pytest.mark.parametrize("stated", [None, 3, "x", {"torch": 3}, {3: "x"}, {"other": "1"}, {"torch": ["1"]}])
def test_a_site_that_states_nothing_of_use_is_not_judged(stated):
    assert read_versions(stated) == {}
    assert fault_of_versions({}, OWN) is None


def test_what_a_site_states_is_cut_and_made_visible():
    stated = read_versions({"torch": "2\n\x1b" + "0" * 1000, "unknown": "x"})
    assert set(stated) == {"torch"}
    assert "\n" not in stated["torch"]
    assert len(stated["torch"]) < 60


def test_a_site_with_another_fedmr_is_left_out_and_the_others_go_on(tmp_path, monkeypatch):
    def answer(message):
        meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 3, MetaKey.INITIAL_METRICS: {"psnr": 30.0}}
        return DXO(DataKind.WEIGHT_DIFF, data={"w": np.full(4, 1e-3, np.float32)}, meta=meta).to_shareable()

    stated = {"site-1": OWN, "site-2": OWN | {"fedmr": "0.0.1"}, "site-3": OWN | {"torch": "1.0"}}
    server = Server(tmp_path, dict.fromkeys(stated, answer), ServerGuard({"learning_rate": 1e-2}, 2))

    submit = server.submit

    def with_versions(site, reply):
        original = type(reply).set_peer_props
        monkeypatch.setattr(type(reply), "set_peer_props", lambda s, p: original(s, {**p, VERSIONS: stated[site]}))
        submit(site, reply)
        monkeypatch.setattr(type(reply), "set_peer_props", original)

    server.submit = with_versions
    server.train(MODEL)
    assert server.panic is None
    (record,) = read_rejections(server.run_folder)
    assert record["site"] == "site-2"
    assert "it runs fedmr 0.0.1" in record["reason"]
    written = json.loads((server.run_folder / VERSIONS_FILE).read_text())
    assert written["sites"]["site-3"]["torch"] == "1.0"
    assert written["server"] == OWN
