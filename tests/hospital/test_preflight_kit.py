"""What preflight says of a FLARE site's own folder."""

import json
from pathlib import Path

import pytest

from fedmr.hospital.preflight.kit import kit_checks
from fedmr.privacy.policy import POLICY_FILE, SUGGESTED, write_policy

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture
def kit(tmp_path):
    for folder in ("local", "startup"):
        (tmp_path / "kit" / folder).mkdir(parents=True)
    key = tmp_path / "kit" / "startup" / "client.key"
    key.write_text("secret")
    key.chmod(0o600)
    write_policy(tmp_path / "kit" / "local", SUGGESTED)
    return tmp_path / "kit"


def rows(kit, job="mscan_fedavg", folders=()):
    return {row.name: row for row in kit_checks(kit, JOBS / job, list(folders))}


def test_a_filled_kit_passes_and_a_folder_that_is_no_kit_says_nothing(kit, tmp_path):
    assert {row.status for row in rows(kit).values()} == {"pass"}
    assert kit_checks(tmp_path, JOBS / "mscan_fedavg", []) == []


def test_without_a_policy_the_site_is_told_that_jobs_set_the_limits(kit):
    (kit / "local" / POLICY_FILE).unlink()
    assert rows(kit)["policy"].status == "warn"


@pytest.mark.parametrize("content", ["{", '{"max_epsilom": {}}', '{"delta": 2}'])
def test_a_damaged_policy_fails(content, kit):
    (kit / "local" / POLICY_FILE).write_text(content)
    row = rows(kit)["policy"]
    assert row.status == "fail"
    assert POLICY_FILE in row.finding


def test_a_job_beyond_the_policy_fails_before_the_site_joins(kit):
    (kit / "local" / POLICY_FILE).write_text(json.dumps({"encryption": True}))
    row = rows(kit)["policy"]
    assert row.status == "fail"
    assert "encrypted" in row.finding
    assert rows(kit, "mscan_fedavg_he_packed")["policy"].status == "pass"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
@pytest.mark.parametrize("name", ["client.key", "client_context.tenseal"])
def test_keys_that_others_can_read_fail_by_name(name, mode, kit):
    (kit / "startup" / name).write_text("secret")
    (kit / "startup" / name).chmod(mode)
    row = rows(kit)["keys"]
    assert row.status == "fail"
    assert f"startup/{name}" in row.finding


def test_a_kit_whose_owner_can_read_the_key_of_the_pseudonyms_is_warned(kit, tmp_path):
    (tmp_path / "data" / "private").mkdir(parents=True)
    row = rows(kit, folders=[tmp_path / "data"])["user"]
    assert row.status == "warn"
    assert "FLARE as another user" in row.remedy
