"""A run: what FLARE left on disk of a job, read from what the server received; needs no data of a site.

It is the one way to a run's folder. Configs, names, numbers and pictures in it may come from anybody: each is checked
here, once, and what is wrong is left out and named in `Run.refused`.
"""

from functools import cached_property
from math import isnan
from pathlib import Path
from typing import Any

from fedmr.algorithms.flmrcm import Mrcm
from fedmr.federation.render import CLIENT_CONFIG, read_task
from fedmr.runs.checks import Refused, RunError, is_site_name, read_json, read_json_lines
from fedmr.runs.figures import Figures, best_round, summarise
from fedmr.runs.log import ServerLog, read_log, read_step_times, traffic_of
from fedmr.runs.records import (
    FINAL_MODEL,
    NO_VOLUMES,
    OF_SERVER,
    evaluating_sites,
    read_rejections,
    read_results,
    read_rounds,
)
from fedmr.runs.settings import argument, read_config
from fedmr.runs.statistics import read_statistics
from fedmr.runs.streams import Stream, read_stream
from fedmr.tasks.base import Task
from fedmr.tasks.registry import build_task
from fedmr.utils.text import one_line

MODEL_FILES = ("FL_global_model.pt", "best_FL_global_model.pt")  # last round, and best by validation
PERSONAL_FILE = "fedmr_personal_model.pt"  # as the learner leaves it in its site's folder
STATISTICS = Path("statistics") / "statistics.json"  # where the job of statistics writes its result
_SIMULATED, _DOWNLOADED = "simulate_job", "workspace"  # the server's folder of a run


class Run:
    """The run in a simulator workspace, in a server's folder of a job, or in a downloaded job; finished or not.

    A run is read when it is asked, once; make another `Run` of a folder that has changed.

    Args:
        path: the workspace, the download, or the server's folder of the job itself.

    Raises:
        RunError: nothing of a run is there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.folder = _server_folder(self.path)
        self.refused = Refused()

    @property
    def simulated(self) -> bool:
        """Whether the run comes from FLARE's simulator, i.e. all sites shared one machine."""
        return self.folder.name == _SIMULATED

    @cached_property
    def meta(self) -> dict[str, Any]:
        """FLARE's description of the job, as it is: in the run, or in a downloaded job one level up."""
        found: dict[str, Any] = {}
        for path in (self.folder / "meta.json", self.folder.parent / "meta.json"):
            content = self._json(path)
            found |= content if isinstance(content, dict) else {}
        return found

    @property
    def name(self) -> str:
        """Of the job, on one line; else that of the folder."""
        name = self.meta.get("name")
        return one_line(name if isinstance(name, str) and name else self.path.resolve().name, 100)

    @cached_property
    def sites(self) -> frozenset[str]:
        """Names of the sites that the job was deployed to; empty where the run does not say."""
        clients, details = self.meta.get("job_clients"), self.meta.get("job_deploy_detail")
        if isinstance(clients, list):
            names = [client.get("name") if isinstance(client, dict) else client for client in clients]
        elif isinstance(details, list):
            names = [one_line(detail).partition(":")[0] for detail in details]
            names = [name for name in names if name != "server"]
        else:
            names = []
        for name in names:
            if not is_site_name(name):
                self.refused.add("meta.json", f"{one_line(name, 100)} is no name of a site")
        return frozenset(str(name) for name in names if is_site_name(name))

    @cached_property
    def _configs(self) -> dict[str, dict[str, Any]]:
        folder = self.folder / "app_server" / "config"
        return {side: read_config(folder, side, self.refused) for side in ("server", "client")}

    def config(self, side: str) -> dict[str, Any]:
        """Return the job's "server" or "client" config, which FLARE leaves in the server's folder; {} without one."""
        return self._configs[side]

    def read_task(self) -> Task:
        """Return the task of the run.

        Raises:
            FileNotFoundError: the server kept no config.
            ValueError: the config is no job's of this release, or reaches out of its file.
        """
        return build_task(read_task(self.folder / "app_server" / "config" / CLIENT_CONFIG.name))

    @cached_property
    def task(self) -> Task | None:
        """The task of the run, None where the server kept no config, or one that this release cannot use."""
        numbers = argument(self.config("client"), "task")
        try:
            return build_task(numbers) if isinstance(numbers, dict) else None
        except ValueError as error:
            self.refused.add("the job's task", error)
            return None

    @property
    def algorithm(self) -> dict[str, Any]:
        """The algorithm's block in the run's task; empty where the server kept no config or trained nothing."""
        numbers = argument(self.config("client"), "task")
        found = numbers.get("algorithm") if isinstance(numbers, dict) else None
        return dict(found) if isinstance(found, dict) else {}

    @property
    def trained_alone(self) -> bool:
        """Whether every site trained alone, so that there are no global models and each tested its own instead."""
        return self.algorithm.get("name") == "local"

    @property
    def outside(self) -> frozenset[str]:
        """Sites that do not train: FL-MRCM's targets, if the job says so."""
        if self.algorithm.get("name") != "flmrcm":
            return frozenset()
        try:
            return frozenset(Mrcm.from_dict(self.algorithm).outside)
        except ValueError as error:
            self.refused.add("the job's algorithm", error)
            return frozenset()

    @cached_property
    def rounds(self) -> list[dict[str, Any]]:
        """Per round, in order: ``{"round": r, "psnr": P, "sites": {SITE: {"steps": n, "psnr": dB, ..}}}``.

        Figures are of the model as received in that round, on validation volumes; P is their mean weighted by steps,
        by which FLARE selects the best model. A site without validation volumes has no psnr; P is nan if none has one.
        """
        path = self.folder / "metrics" / "round_metrics.jsonl"
        lines = read_json_lines(path, self.refused) if path.is_file() else ()
        return read_rounds(lines, self.sites, self.refused)

    @cached_property
    def results(self) -> dict[str, dict[str, Figures]]:
        """Test figures by site and model, as far as sites reported them; see `records.read_results`."""
        raw = self._json(self.folder / "cross_site_val" / "cross_val_results.json")
        return {} if raw is None else read_results(raw, self.sites, self.refused)

    def results_of(self, model: str = FINAL_MODEL) -> dict[str, Figures]:
        """Return the test figures of one of the server's models by site, of sites that have some and usable ones."""
        found = {site: row.get(model, {}) for site, row in self.results.items()}
        return {site: figures for site, figures in found.items() if {"model", "zero_filled"} <= figures.keys()}

    @property
    def without_test(self) -> frozenset[str]:
        """Sites that said that they have no test volumes."""
        return frozenset(site for site, row in self.results.items() if NO_VOLUMES in row.values())

    @property
    def evaluating(self) -> frozenset[str]:
        """Sites that said that they have no training volumes, so that they only evaluate."""
        return frozenset(evaluating_sites(self.rejections))

    @property
    def parts(self) -> dict[str, str]:
        """Parts that sites do not take, in words, by site, for want of volumes; a site with all parts is not in it."""
        found: dict[str, list[str]] = {site: ["does not train"] for site in self.evaluating}
        for record in self.rounds[:1]:
            for site, row in record["sites"].items():
                if row.get("n_volumes") == 0:
                    found.setdefault(site, []).append("does not validate")
        for site in self.without_test:
            found.setdefault(site, []).append("does not test")
        return {site: f"{' and '.join(found[site])}: it has no volumes for that" for site in sorted(found)}

    @property
    def best(self) -> dict[str, Any] | None:
        """The round of the best model; None if there is none, because no site validates."""
        best = best_round(self.rounds) if self.rounds else None
        return None if best is None or isnan(best["psnr"]) else best

    def figures(self, *, complete: bool = True) -> Figures:
        """Return the test figures of the final global model, as the sites reported them, with their mean.

        A site whose figures had to be refused is missing, and named in `refused`.

        Args:
            complete: whether all sites must be there; else the figures are of those that are.

        Raises:
            RunError: a model is missing, or a site reported no figures or did not train in a round; but a site that
                the guard left out of a round is in its record.
        """
        self.model_file()
        sites = self.expected()
        self._check_rounds(sites - self.outside - self.evaluating if complete else frozenset())
        if any(not isnan(record["psnr"]) for record in self.rounds[1:]):  # else FLARE selects none
            self.model_file(MODEL_FILES[1])
        results = self.results_of()
        refused = {site for model, site in self.refused.records if model == FINAL_MODEL}
        absent = ", ".join(sorted(sites - set(results) - self.without_test - refused))
        if absent and complete:
            raise RunError(f"no test figures of the final model from {absent}. Look into that site's log.txt")
        if refused and not results:
            raise RunError(f"no usable test figures of the final model: {'; '.join(self.refused.lines())}")
        if not results:
            raise RunError(
                f"no site of {self.path} has test volumes, so there are no figures. Evaluate its model elsewhere"
            )
        return summarise({site: results[site] for site in sorted(results)})

    def expected(self) -> frozenset[str]:
        """Return `sites`.

        Raises:
            RunError: the run does not name them.
        """
        if not self.sites:
            raise RunError(
                f"{self.folder / 'meta.json'} names no sites; download the whole job, with the meta.json beside "
                "workspace/"
            )
        return self.sites

    def _check_rounds(self, trained: frozenset[str]) -> None:
        if not self.rounds:
            path = self.folder / "metrics" / "round_metrics.jsonl"
            state = "holds no round that can be used" if path.is_file() else "does not exist"
            raise RunError(f"{path} {state}: no site finished a round. Look into the server's log.txt")
        known = {(row["round"], row["site"]) for row in self.rejections} | self.refused.records
        for record in self.rounds:
            silent = {site for site in trained - set(record["sites"]) if (record["round"], site) not in known}
            if silent:
                absent = ", ".join(sorted(silent))
                raise RunError(f"round {record['round']}: no contribution from {absent}. Look into that site's log.txt")

    @property
    def problem(self) -> str:
        """Why the run is incomplete, with paths from the run's folder on; empty if it is complete."""
        try:
            self.figures()
        except RunError as error:
            return str(error).replace(f"{self.path}/", "")
        return ""

    @property
    def is_cross_site(self) -> bool:
        """Whether sites' own models, not only the server's, were tested."""
        return any(not model.startswith(OF_SERVER) for row in self.results.values() for model in row)

    @cached_property
    def rejections(self) -> list[dict[str, Any]]:
        """Rejections by the guard, in order; see `records.read_rejections`."""
        return read_rejections(self.folder, self.refused)

    def model_file(self, name: str = MODEL_FILES[0]) -> Path:
        """Return the path of one of the server's models.

        Raises:
            RunError: it is missing.
        """
        path = self.folder / "app_server" / name
        if not path.is_file():
            raise RunError(f"{path} is missing: the job failed. Look into the server's log.txt")
        return path

    @property
    def model_files(self) -> list[Path]:
        """The server's models that are there."""
        return sorted((self.folder / "app_server").glob("*.pt"))

    def personal_models(self, site: str) -> list[Path]:
        """Return the models that a simulated site keeps to itself; elsewhere they do not leave it."""
        return sorted((self.folder.parent.parent / site).glob(f"*/{PERSONAL_FILE}")) if self.simulated else []

    def site_folder(self, site: str) -> Path | None:
        """Return a simulated site's own folder of the run; None elsewhere, where it lies at the site."""
        folder = self.folder.parent.parent / site / _SIMULATED
        return folder if self.simulated and folder.is_dir() else None

    @cached_property
    def log(self) -> ServerLog | None:
        """The server's log; None where it is not in the run."""
        return read_log(self.folder.parent if self.simulated else self.folder)

    def step_times(self, site: str) -> list[float]:
        """Return ms per optimisation step by round and epoch of a simulated site; [] elsewhere."""
        return read_step_times(self.folder.parent.parent / site / "log.txt") if self.simulated else []

    @cached_property
    def traffic(self) -> dict[str, dict[str, int]]:
        """Bytes that the server received ("up") and sent ("down") in the whole run, by kind of message."""
        names = (self.folder / "stats_pool_summary.json", self.folder.parent / "pool_stats/simulator_cell_stats.json")
        return traffic_of(self._json(path) for path in names)

    @cached_property
    def streams(self) -> dict[str, Stream]:
        """Streams by site, in order of their names."""
        found = {}
        for folder in sorted((self.folder / "tb_events").glob("*")):
            if is_site_name(folder.name) and (not self.sites or folder.name in self.sites):
                found[folder.name] = read_stream(folder, self.refused)
            else:
                self.refused.add("curves", f"{one_line(folder.name, 100)} is no site of this job")
        return found

    @property
    def is_statistics(self) -> bool:
        """Whether the run's result are statistics, not a model."""
        return (self.folder / STATISTICS).is_file()

    @cached_property
    def statistics(self) -> Figures:
        """``{"min_patients": n, "data_sets": {NAME: ..}}``; see `statistics.read_statistics`.

        Raises:
            RunError: a site or one of its figures is missing.
        """
        data_sets = read_statistics(read_json(self.folder / STATISTICS), sorted(self.expected()), self.refused)
        minimum = argument(self.config("client"), "min_count")
        return {"min_patients": minimum if isinstance(minimum, int) else 0, "data_sets": data_sets}

    def _json(self, path: Path) -> Any:
        """Content of a file of the run; None if it is missing or unusable, which is noted."""
        try:
            return read_json(path) if path.is_file() else None
        except RunError as error:
            self.refused.add("the run's files", error)
            return None


def _server_folder(path: Path) -> Path:
    for candidate in (path, path / "server" / _SIMULATED, path / _DOWNLOADED):
        if (candidate / "app_server").is_dir():
            return candidate
    raise RunError(f"{path} is no run: it holds no app_server folder. Give a simulator workspace or a downloaded job")
