"""axe-core looks at the page of a run in Chromium, wide and narrow, light and dark."""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from browser import CHROMIUM, browser
from fedmr.reports.html import write_html
from fedmr.runs.run import Run
from runs import write_run

pytestmark = [pytest.mark.e2e, pytest.mark.release]
AXE = "axe-core@4.14.1"


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> str:
    """The source of axe-core, from the npm registry."""
    if CHROMIUM is None or shutil.which("npm") is None:
        pytest.skip("no Chromium to open the page in, or no npm to get axe-core by")
    folder: Path = tmp_path_factory.mktemp("axe")
    done = subprocess.run(["npm", "pack", "--silent", AXE], cwd=folder, capture_output=True, check=False, timeout=120)
    if done.returncode:
        pytest.skip(f"{AXE} cannot be had: {done.stderr[-200:]!r}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


def test_axe_finds_nothing_at_any_width_in_light_and_dark(axe, tmp_path):
    write_html(Run(write_run(tmp_path / "w")), tmp_path / "report.html")
    found = {}
    with browser() as view:
        for width in (1280, 400):
            for dark in (False, True):
                view.open(tmp_path / "report.html", width=width, dark=dark)
                view.evaluate("for (const e of document.querySelectorAll('details')) e.open = true")
                view.evaluate(f"{axe}; 1")
                words = "JSON.stringify(r.violations.map((v) => [v.id, v.impact, v.nodes[0].html.slice(0, 120)]))"
                violations = json.loads(view.evaluate(f"axe.run(document).then((r) => {words})"))
                checked = view.evaluate("axe.run(document).then((r) => r.passes.length)")
                assert checked > 20
                found[width, dark] = violations
    assert [(key, line) for key, lines in found.items() for line in lines] == []
