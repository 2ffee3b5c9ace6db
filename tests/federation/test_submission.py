"""Who is meant to take part in a job."""

import shutil

import pytest

from fedmr.federation.configured import read_meant
from fedmr.federation.kits import ConsortiumError
from fedmr.federation.submission import invite
from fedmr.utils.hocon import read_hocon
from simulator import ROOT, SITES


@pytest.fixture
def job(tmp_path):
    return shutil.copytree(ROOT / "jobs" / "mscan_fedavg", tmp_path / "job")


def meta(job):
    return read_hocon(job / "meta.conf")


def test_all_sites_are_meant_by_default_and_the_absent_are_named(job):
    assert invite(job, SITES, SITES[:3], wanted=[], required=[]) == [SITES[3]]
    assert read_meant(job) == list(SITES)
    assert meta(job)["deploy_map"]["app"] == ["server", *SITES]
    assert meta(job)["min_clients"] == 2
    assert meta(job)["mandatory_clients"] == []


def test_a_federation_of_one_needs_one_site_and_a_wish_for_all_means_all(job):
    invite(job, SITES[:1], SITES, wanted=[], required=[])
    assert meta(job)["min_clients"] == 1
    config = job / "app" / "config" / "config_fed_server.conf"
    config.write_text(config.read_text().replace("min_sites = 2", "min_sites = 1000"))
    invite(job, SITES, SITES, wanted=SITES, required=[SITES[0]])
    assert meta(job)["min_clients"] == len(SITES)
    assert meta(job)["mandatory_clients"] == [SITES[0]]


@pytest.mark.parametrize(
    ("connected", "choice", "reason"),
    [
        (
            SITES,
            {"wanted": ["site-1", "site_2"]},
            r"site_2 is no site of this federation; its .*--sites",
        ),
        (SITES, {"required": ["site-9"]}, "site-9 is no site"),
        (SITES[1:], {"required": ["site-1"]}, "site-1 is required and not connected"),
        (SITES[:1], {}, r"1 of 4 sites are connected and the job needs 2 .*missing: site-2, site-3, site-4"),
        ((), {"wanted": ["site-1"]}, "0 of 1 sites are connected and the job needs 1"),
    ],
)
def test_what_cannot_start_as_it_is_meant_is_refused_before_it_is_submitted(job, connected, choice, reason):
    with pytest.raises(ConsortiumError, match=reason):
        invite(job, SITES, connected, **{"wanted": [], "required": []} | choice)


def test_a_typing_error_in_the_deploy_map_is_found(job):
    path = job / "meta.conf"
    path.write_text(path.read_text().replace('"@ALL"', '"server", "site-1", "sitte-2"'))
    with pytest.raises(ConsortiumError, match="sitte-2 is no site"):
        invite(job, SITES, SITES, wanted=[], required=[])


def test_who_is_required_must_be_meant(job):
    with pytest.raises(ValueError, match="site-3 is required and not among"):
        invite(job, SITES, SITES, wanted=["site-1", "site-2"], required=["site-3"])
