"""What a project says of itself agrees with itself."""

import os
import re
from pathlib import Path

import pytest
import yaml

import fedmr

ROOT = Path(__file__).parents[1]


def test_the_version_is_one():
    project = (ROOT / "pyproject.toml").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r'^version = "(.+)"', project, re.M)[1] == fedmr.__version__ == str(citation["version"])
    assert f"## [{fedmr.__version__}]" in changelog


def test_the_citation_names_this_software_and_both_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version"} <= set(citation)
    assert [reference["year"] for reference in citation["references"]] == [2024, 2021]
    assert citation["references"][0]["doi"] == "10.1007/s00530-024-01415-8"
    assert citation["references"][1]["url"].endswith("2103.02148")


def test_the_workflow_runs_what_ci_runs():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert commands == [".ci/run"]
    assert os.access(ROOT / commands[0], os.X_OK)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_projects_pages_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text())
    assert links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
