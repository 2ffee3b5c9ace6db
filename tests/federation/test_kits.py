"""Startup kits, made by `nvflare provision` once for all tests here."""

import json
import shutil
import socket
from pathlib import Path

import pytest
import yaml
from nvflare.fuel.sec.authz import AuthzContext, Person
from nvflare.security.security import FLAuthorizer

from fedmr.federation.allow_list import ALLOWED
from fedmr.federation.kits import ConsortiumError, Kits, fill_kit, free_port, open_kits, provision
from fedmr.federation.session import Admin
from fedmr.privacy.policy import POLICY_FILE, SUGGESTED, Policy, read_policy
from simulator import ROOT, SITES

PROJECT = ROOT / "poc" / "project.yml"


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory) -> Kits:
    kits, new = provision(PROJECT, tmp_path_factory.mktemp("kits") / "w")
    assert new
    return kits


@pytest.fixture
def kit(provisioned, tmp_path) -> Path:
    """A site's own copy of its kit."""
    return Path(shutil.copytree(provisioned.folder / "site-1", tmp_path / "site-1"))


def resources(kit: Path) -> dict:
    return json.loads((kit / "local" / "resources.json").read_text())


def test_everybody_of_the_project_has_a_kit(provisioned):
    assert provisioned.sites == list(SITES)
    names = {provisioned.server["name"], *SITES, *provisioned.admins}
    assert {folder.name for folder in provisioned.folder.iterdir()} >= names
    assert open_kits(provisioned.workspace) == provisioned


def test_the_kits_are_kept_and_another_projects_are_not_overwritten(provisioned, tmp_path):
    assert provision(PROJECT, provisioned.workspace) == (provisioned, False)
    other = yaml.safe_load(PROJECT.read_text()) | {"name": "other"}
    (tmp_path / "other.yml").write_text(yaml.safe_dump(other))
    with pytest.raises(ConsortiumError, match="holds the kits of another project"):
        provision(tmp_path / "other.yml", provisioned.workspace)


def test_a_server_has_no_key_for_what_sites_encrypt(provisioned):
    startup = provisioned.folder / provisioned.server["name"] / "startup"
    assert (startup / "server_context.tenseal").is_file()
    assert not (startup / "client_context.tenseal").exists()
    assert (provisioned.folder / "site-1" / "startup" / "client_context.tenseal").is_file()


def test_an_admin_of_a_federation_that_does_not_run_is_told_so_and_nothing_else_is_printed(provisioned, capfd):
    with pytest.raises(ConsortiumError, match=r"Could not connect to the FLARE server .*`fedmr poc start`"):
        Admin(provisioned).registered()
    assert capfd.readouterr() == ("", "")


def test_who_is_no_admin_is_said(provisioned):
    assert provisioned.admin().name == "admin@hub.org"
    with pytest.raises(ConsortiumError, match=r"nobody is no admin.*lead@hospital-a\.org"):
        provisioned.admin("nobody")


def test_a_site_allows_fedmr_once_and_offers_its_gpus(kit):
    for _ in range(2):
        fill_kit(kit, gpus=2, gpu_memory=80)
    allowed = resources(kit)["class_allow_list"]
    assert all(allowed.count(name) == 1 for name in ALLOWED)
    manager = next(c for c in resources(kit)["components"] if c["id"] == "resource_manager")
    assert (manager["args"]["num_of_gpus"], manager["args"]["mem_per_gpu_in_GiB"]) == (2, 80)
    rights = json.loads((kit / "local" / "authorization.json").read_text())["permissions"]
    assert [rights[role]["byoc"] for role in ("project_admin", "lead")] == ["any", "any"]


def test_a_site_that_forbids_code_takes_it_from_nobody_and_leaves_all_else(kit):
    fill_kit(kit, forbid_code=True)
    before, after = (
        json.loads((kit / "local" / f"authorization.json{end}").read_text())["permissions"] for end in (".default", "")
    )
    assert before.keys() == after.keys()
    for role, rights in after.items():
        assert rights["byoc"] == "none"
        if isinstance(before[role], dict):
            changed = {"byoc", "shell_commands"}
            assert {k: v for k, v in rights.items() if k not in changed} == {
                k: v for k, v in before[role].items() if k not in changed
            }


def test_no_admin_reads_files_of_a_filled_kits_machine_and_no_log_leaves_it(provisioned, tmp_path):
    for name in (provisioned.server["name"], "site-1"):
        kit = Path(shutil.copytree(provisioned.folder / name, tmp_path / name))
        fill_kit(kit)
        rights = json.loads((kit / "local" / "authorization.json").read_text())
        for command in ("cat", "head", "tail", "grep", "ls", "pwd"):
            for role in rights["permissions"]:
                person = Person("eve", "hospital_a", role)
                context = AuthzContext(user=person, submitter=person, right=command)
                assert FLAuthorizer("hospital_a", rights).authorize(context)[0] is False
        assert resources(kit)["allow_log_streaming"] is False
        assert "app_common.logging" not in json.dumps(resources(kit))
        assert [c["id"] for c in resources(kit)["components"]].count("policy_keeper") == 1


def test_a_site_gets_a_policy_to_start_with_which_is_its_owners_from_then_on(kit):
    (kit / "local" / POLICY_FILE).unlink(missing_ok=True)
    fill_kit(kit)
    assert read_policy(kit / "local") == SUGGESTED
    (kit / "local" / POLICY_FILE).write_text('{"delta": 1e-6}')
    fill_kit(kit)
    assert read_policy(kit / "local") == Policy(delta=1e-6)


def test_what_is_no_kit_and_data_of_nobody_are_said(kit, tmp_path):
    with pytest.raises(ConsortiumError, match="is no startup kit"):
        fill_kit(tmp_path)
    with pytest.raises(ConsortiumError, match=r"site-1/datalist\.json is missing"):
        fill_kit(kit, data=tmp_path)


@pytest.mark.parametrize("text", ["", "participants: [", "participants: [{name: a, type: server}]"])
def test_a_file_that_is_no_project_is_said(text, tmp_path):
    (tmp_path / "p.yml").write_text(text)
    with pytest.raises(ConsortiumError, match=r"p\.yml is no project"):
        provision(tmp_path / "p.yml", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_no_kits_are_said(tmp_path):
    with pytest.raises(ConsortiumError, match="fedmr poc provision"):
        open_kits(tmp_path)


def test_a_taken_port_is_replaced_by_a_free_one():
    with socket.socket() as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


def test_a_port_whose_server_has_just_closed_its_connections_is_free():
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("localhost", port)):
            assert free_port(port) != port
            server.accept()[0].close()  # first, so that its end waits for late packets
    with socket.socket() as plain, pytest.raises(OSError, match="in use"):
        plain.bind(("localhost", port))
    assert free_port(port) == port


def test_what_the_owner_has_set_stays_whatever_is_filled_in_later(kit):
    fill_kit(kit, gpus=2, gpu_memory=80, forbid_code=True)
    path = kit / "local" / "resources.json"
    own = resources(kit) | {"max_num_clients": 7}
    next(c for c in own["components"] if c["id"] == "resource_manager")["args"]["num_of_gpus"] = 3
    own["components"].append({"id": "mine", "path": "hospital.Own", "args": {}})
    path.write_text(json.dumps(own))
    fill_kit(kit)
    assert resources(kit)["max_num_clients"] == 7
    parts = {part["id"]: part for part in resources(kit)["components"]}
    assert len(parts) == len(resources(kit)["components"])
    assert parts["resource_manager"]["args"] == {"num_of_gpus": 3, "mem_per_gpu_in_GiB": 80} | {
        k: v for k, v in parts["resource_manager"]["args"].items() if k not in ("num_of_gpus", "mem_per_gpu_in_GiB")
    }
    assert parts["mine"]["path"] == "hospital.Own"
    rights = json.loads((kit / "local" / "authorization.json").read_text())["permissions"]
    assert {role["byoc"] for role in rights.values()} == {"none"}


def test_the_servers_kit_keeps_settings_too_and_finds_sites_that_started_anew(provisioned, tmp_path):
    kit = Path(shutil.copytree(provisioned.folder / provisioned.server["name"], tmp_path / "server"))
    path = kit / "local" / "resources.json"
    path.write_text(json.dumps(resources(kit) | {"max_num_clients": 7}))
    fill_kit(kit)
    assert resources(kit)["max_num_clients"] == 7
    ours = [part["id"] for part in resources(kit)["components"]]
    assert ours.count("returned_sites") == ours.count("policy_keeper") == 1


def test_settings_that_are_no_json_are_named(kit):
    (kit / "local" / "resources.json").write_text("{")
    with pytest.raises(ConsortiumError, match=r"resources\.json is no JSON"):
        fill_kit(kit)
