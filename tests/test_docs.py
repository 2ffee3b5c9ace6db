"""Names and links in documentation and configs exist: dotted names of the package, relative links, paths of files."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "benchmarks" / "studies" / "README.md",
]
ARCHIVE = sorted((ROOT / "benchmarks" / "archive").glob("*.md"))  # they name what has been renamed since
CONFIGS = [*sorted((ROOT / "app_configs").rglob("*.conf")), *sorted((ROOT / "poc").rglob("*.json"))]
DOTTED = re.compile(r"(?<![\w/])fedmr(?:\.\w+)+")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
FOLDERS = "custom|tests|docs|benchmarks|app_configs|poc|jobs|examples"
FILE = re.compile(rf"`((?:{FOLDERS})/[\w./-]*)`")
# Paths within the package, as the pages write them: `flare/guard.py`.
MODULE = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.py)`")


def resolve(name: str) -> object:
    """Import the longest module of a dotted name and take the rest as attributes."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("page", [*PAGES, *CONFIGS], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_dotted_name_resolves(page):
    wrong = []
    for name in sorted(set(DOTTED.findall(page.read_text()))):
        try:
            resolve(name)
        except (AttributeError, ModuleNotFoundError):
            wrong.append(name)
    assert wrong == []


@pytest.mark.parametrize("page", [*PAGES, *ARCHIVE], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_path_exists(page):
    text = page.read_text()
    links = [page.parent / link for link in LINK.findall(text) if "://" not in link and not link.startswith("mailto:")]
    # NAME and FILE in capitals stand for a reader's own
    paths = [ROOT / path for path in FILE.findall(text) if not re.search(r"[A-Z]{3,}", path.removesuffix("README.md"))]
    missing = [str(path) for path in (*links, *paths) if not path.exists()]
    package = ROOT / "custom" / "fedmr"
    modules = [path for path in MODULE.findall(text) if not re.match(rf"(?:{FOLDERS})/", path)]
    missing += [path for path in modules if not (package / path).exists() and not (page.parent / path).exists()]
    assert missing == []


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_a_page_can_be_read_at_one_sitting(page):
    assert len(page.read_text().splitlines()) <= (120 if page.name == "README.md" else 150)
