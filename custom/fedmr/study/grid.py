"""Reading a study from its YAML file. Everything is checked before the first cell is trained."""

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from pyhocon import ConfigFactory, ConfigTree

from fedmr.data.datalist import site_folders
from fedmr.federation.render import changed_network, job_names
from fedmr.nets import build, count_parameters
from fedmr.study import Cell, Study
from fedmr.study.files import StudyError, read_yaml
from fedmr.study.results import columns
from fedmr.tasks.registry import build_task
from fedmr.utils.class_path import allow_folder

# what a variant may set in addition to the numbers of the task
_OWN = {"job", "rounds", "sites", "leave_out", "pooled", "minutes", "only"}
_KEYS = {"about", "base", "seeds", "equal", "baseline", "axes"}
_EQUAL = ("steps", "seconds")
_NAME = re.compile(r"[\w.,+=() -]+")
MIN_ROUNDS = 2
_MINUTES = 120  # far more than a cell takes at demo size


def read_study(path: Path, *, data: Path, configs: Path) -> Study:
    """Read a study and build every cell's task and network.

    Args:
        path: .yaml; benchmarks/studies/README.md describes it.
        data: data root with the sites.
        configs: folder with the job sources.

    Raises:
        StudyError: naming the file and the entry that is wrong, or that `data` holds no site.
    """
    content = read_yaml(path)
    for folder in (path.parent, configs):
        allow_folder(folder)
    try:
        _only(content, _KEYS)
        axes = _axes(content)
        seeds, equal, baseline = _choices(content, axes)
        base = _mapping("base", content.get("base", {}))
        sites = [folder.name for folder in site_folders(data)]
        arms = [_arm(base, chosen, configs, sites) for chosen in _combinations(axes)]
        if equal == "seconds":
            _check_timed(arms, axes)
    except ValueError as error:
        raise StudyError(f"{path}: {error}") from None
    cells = [_with_seed(cell, seed) for seed in dict.fromkeys(seeds) for cell in arms]
    names = {axis: list(variants) for axis, variants in axes.items()}
    return Study(path.stem, str(content.get("about", "")), names, baseline, equal, cells)


def _choices(content: Mapping[str, Any], axes: Mapping[str, Mapping[str, Any]]) -> tuple[list[int], str, str]:
    """Seeds, what is equal among the cells, and the baseline."""
    seeds, equal, baseline = content.get("seeds", [0]), content.get("equal", "steps"), content.get("baseline")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise StudyError(f"seeds is {seeds!r}; it must be a list of whole numbers, e.g. [0, 1, 2]")
    if equal not in _EQUAL:
        raise StudyError(f"equal is {equal!r}; known are {', '.join(_EQUAL)}")
    if not isinstance(baseline, str) or sum(baseline in axis for axis in axes.values()) != 1:
        known = ", ".join(name for axis in axes.values() for name in axis)
        raise StudyError(f"baseline is {baseline!r}; it must be a variant of exactly one axis; variants are {known}")
    return seeds, equal, baseline


def _axes(content: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    axes = {name: _mapping(f"axis {name!r}", axis) for name, axis in _mapping("axes", content.get("axes")).items()}
    if taken := set(axes) & set(columns(())):
        raise StudyError(f"axis {min(taken)!r} is the name of a column of the results; name it otherwise")
    for name, variants in axes.items():
        for variant, settings in variants.items():
            if not _NAME.fullmatch(variant):
                raise StudyError(f"axis {name!r}: {variant!r} must be letters, digits, spaces and . , + = ( ) - only")
            variants[variant] = _mapping(f"variant {variant!r}", settings or {}, may_be_empty=True)
    folders = [re.sub(r"\W+", "_", "__".join(arm)) for arm in itertools.product(*axes.values())]
    if len(set(folders)) < len(folders):
        raise StudyError("two variants differ only in spaces or signs; name them otherwise")
    return axes


def _combinations(axes: Mapping[str, Mapping[str, dict[str, Any]]]) -> list[tuple[tuple[str, dict[str, Any]], ...]]:
    """Yield a variant of every axis with its settings; variants are combined only as their `only` allows."""
    chosen = []
    for arm in itertools.product(*(variants.items() for variants in axes.values())):
        names = dict(zip(axes, (variant for variant, _ in arm), strict=True))
        wanted = [pair for variant, settings in arm for pair in _only_with(variant, settings, axes).items()]
        if all(names[axis] in allowed for axis, allowed in wanted):
            chosen.append(arm)
    if not chosen:
        raise StudyError("no combination of variants is left; see their `only`")
    return chosen


def _only_with(
    variant: str, settings: Mapping[str, Any], axes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Sequence[str]]:
    """Variants of other axes that a variant is combined with, by axis."""
    wanted = _mapping(f"only of {variant!r}", settings["only"]) if "only" in settings else {}
    for axis, names in wanted.items():
        if not isinstance(names, list) or not set(names) <= set(axes.get(axis, [])):
            raise StudyError(f"{variant}: only is {axis}: {names!r}; it must be an axis and a list of its variants")
    return wanted


def _arm(
    base: Mapping[str, Any], chosen: Sequence[tuple[str, Mapping[str, Any]]], configs: Path, sites: Sequence[str]
) -> Cell:
    """The arm's cell with the job's own seed. A later setting replaces an earlier one; of a network it replaces the
    named arguments, and all but scale and grid if it names another network."""
    layers = [base, *(settings for _, settings in chosen)]
    settings = {key: value for layer in layers for key, value in layer.items()}
    arm = tuple(variant for variant, _ in chosen)
    try:
        task, rounds = _job(settings.get("job"), configs)
        for layer in layers:
            task["network"] = changed_network(
                task["network"], _mapping("network", layer.get("network", {}), may_be_empty=True)
            )
        _only(settings, _OWN | {f.name for f in fields(build_task(task))})
        changed = {key: value for key, value in settings.items() if key not in _OWN and key != "network"}
        for key, value in changed.items():
            before = task.get(key)
            if isinstance(before, (int, float)) and not isinstance(value, (int, float)):
                raise StudyError(f"{key} is {value!r}; it must be a number")
        task |= changed
        trained, unseen = _sites(settings, sites)
        if unseen and "target_sites" in task.get("algorithm", {}):  # adapt to the sites that are tested as unseen
            task["algorithm"] = {**task["algorithm"], "target_sites": list(unseen), "train_target": False}
        return Cell(
            arm=arm,
            seed=0,
            job=settings["job"],
            task=task,
            rounds=_rounds(settings.get("rounds", rounds)),
            sites=trained,
            unseen=unseen,
            pooled=settings.get("pooled", False) is True,
            minutes=float(_positive("minutes", settings.get("minutes", _MINUTES), (int, float))),
            parameters=count_parameters(build(**build_task(task).network)),
        )
    except ValueError as error:
        raise StudyError(f"{', '.join(arm)}: {error}") from None


def _check_timed(arms: Sequence[Cell], axes: Mapping[str, Mapping[str, Any]]) -> None:
    if len(arms) < math.prod(len(variants) for variants in axes.values()):
        raise StudyError("equal seconds need every combination of variants; leave out `only`")
    for cell in arms:
        name = cell.task.get("algorithm", {}).get("name", "fedavg")
        if name not in ("fedavg", "local"):
            raise StudyError(f"{', '.join(cell.arm)}: equal seconds are measured of plain training, not of {name}")


def _with_seed(cell: Cell, seed: int) -> Cell:
    task = cell.task | {"seed": seed, "network": cell.task["network"] | {"seed": seed}}
    return replace(cell, seed=seed, task=task)


def _job(name: Any, configs: Path) -> tuple[dict[str, Any], int]:
    """Task and rounds of a job's source."""
    if name not in job_names(configs):
        named = f"job {name!r} is not in {configs}" if name else "no job is named; name one under base"
        raise StudyError(f"{named}; there are {', '.join(job_names(configs)) or 'none'}")
    tree = _parsed(configs / f"{name}.conf")
    if "task" not in tree:
        raise StudyError(f"job {name!r} does not train; take another")
    task: dict[str, Any] = json.loads(json.dumps(tree["task"].as_plain_ordered_dict()))
    return task, int(tree["num_rounds"])


@cache
def _parsed(path: Path) -> ConfigTree:
    """A job's source, which takes pyhocon a good part of a second."""
    return ConfigFactory.parse_file(path)


def _sites(settings: Mapping[str, Any], sites: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sites to train on and sites left out."""
    chosen, unseen = settings.get("sites", sites), settings.get("leave_out", [])
    for key, names in (("sites", chosen), ("leave_out", unseen)):
        if not isinstance(names, Sequence) or isinstance(names, str) or not set(names) <= set(sites):
            raise StudyError(f"{key} is {names!r}; it must be a list of sites of the data: {', '.join(sites)}")
    trained = tuple(site for site in chosen if site not in unseen)
    if not trained:
        raise StudyError("no site is left to train on")
    return trained, tuple(unseen)


def _only(given: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(given) - known):
        raise StudyError(f"{', '.join(unknown)} is unknown; known are {', '.join(sorted(known))}")


def _mapping(what: str, value: Any, *, may_be_empty: bool = False) -> dict[str, Any]:
    if not isinstance(value, dict) or not (value or may_be_empty or what == "base"):
        raise StudyError(f"{what} is {value!r}; it must be a table of names and values")
    if wrong := [key for key in value if not isinstance(key, str)]:
        raise StudyError(f"{what}: {wrong[0]!r} is no text; put it in quotes")
    return dict(value)


def _rounds(value: Any) -> int:
    if _positive("rounds", value) < MIN_ROUNDS:
        raise StudyError("rounds is 1; take 2 or more: FLARE never selects the model of the first as the best")
    return int(value)


def _positive(name: str, value: Any, kinds: tuple[type, ...] = (int,)) -> Any:
    if type(value) not in kinds or not value > 0:
        raise StudyError(f"{name} is {value!r}; it must be a number above 0")
    return value
