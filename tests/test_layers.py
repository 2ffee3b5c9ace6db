"""The layer rule: a package imports only packages below it, and nvflare is imported in its places alone."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "custom" / "fedmr"
# top down
ORDER = (
    *("cli", "audit", "study", "flare", "training", "inference", "checkpoints", "reports", "runs", "hospital"),
    *(
        "federation",
        "tasks",
        "algorithms",
        "data",
        "nets",
        "privacy",
        "aggregation",
        "physics",
        "metrics",
        "losses",
        "utils",
    ),
)
LEVEL = {room: level for level, room in enumerate(reversed(ORDER))}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            names.update({f"{node.module}.{alias.name}" for alias in node.names})
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


def rooms_imported(path: Path) -> set[str]:
    """The other rooms that a file imports."""
    parts = [name.split(".") for name in imported(path)]
    return {p[1] for p in parts if p[0] == "fedmr" and len(p) > 1 and p[1] in LEVEL} - {room_of(path)}


def files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_room_has_its_level():
    assert {room_of(path) for path in files()} == set(ORDER)


def test_a_package_imports_only_packages_below_it():
    upward = [
        f"{path.relative_to(PACKAGE)} imports {room}"
        for path in files()
        for room in rooms_imported(path)
        if LEVEL[room] >= LEVEL[room_of(path)]
    ]
    assert not upward


def test_fewer_than_130_pairs_of_rooms_import_each_other():
    pairs = {(room_of(path), room) for path in files() for room in rooms_imported(path)}
    print(f"{len(ORDER)} rooms, {len(pairs)} pairs")
    assert len(ORDER) <= 21
    assert 40 < len(pairs) < 130


def test_no_two_modules_import_each_other_in_a_circle():
    modules = {"fedmr." + ".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in files()}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph = {
        name: {n if n in modules else n.rpartition(".")[0] for n in imported(path)} & set(modules) - {name}
        for name, path in modules.items()
    }
    while graph:
        leaves = {name for name, targets in graph.items() if not targets & set(graph)}
        assert leaves, f"a circle among {sorted(graph)}"
        graph = {name: targets for name, targets in graph.items() if name not in leaves}


def test_nvflare_is_imported_in_its_places_alone():
    outside = [
        str(path.relative_to(PACKAGE))
        for path in files()
        if any(name.split(".")[0] == "nvflare" for name in imported(path))
        and room_of(path) != "flare"
        and path != PACKAGE / "federation" / "session.py"
    ]
    assert not outside


# what FLARE and FedMR leave in the folder of a run; a module that names one of them reads or writes it itself
RUN_FILES = {
    *("meta.json", "round_metrics.jsonl", "cross_val_results.json", "cross_site_val", "tb_events", "simulate_job"),
    *("guard.jsonl", "statistics.json", "stats_pool_summary.json", "pool_stats", "app_server", "workspace"),
    *("FL_global_model.pt", "best_FL_global_model.pt", "fedmr_personal_model.pt", "EventAccumulator"),
}


def words_of(path: Path) -> set[str]:
    """The parts of all paths and names that a file holds as text or imports; documentation is not among them."""
    tree = ast.parse(path.read_text())
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {part for text in texts if " " not in text for part in text.split("/")} | {
        name.rpartition(".")[2] for name in imported(path)
    }


def test_only_runs_knows_what_lies_in_the_folder_of_a_run():
    outside = {str(p.relative_to(PACKAGE)): words_of(p) & RUN_FILES for p in files() if room_of(p) != "runs"}
    inside = set().union(*(words_of(path) for path in files() if room_of(path) == "runs"))
    assert inside >= RUN_FILES, "the names are those that the readers use"
    assert {path: found for path, found in outside.items() if found} == {}


def test_only_the_registry_asks_which_kind_of_task_it_is():
    ladder = re.compile(r"isinstance\(.*(Task|task)")
    asking = [str(p.relative_to(PACKAGE)) for p in files() if ladder.search(p.read_text())]
    assert asking == ["tasks/registry.py"]
