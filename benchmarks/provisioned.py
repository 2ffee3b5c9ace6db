"""Memory of the server of a provisioned federation with few and many sites, over TLS on this machine.

    python benchmarks/provisioned.py [--sites 2 4 8 16]

In FLARE's simulator the server's process also holds the sites' ends of all connections; here every site has processes
of its own, as in hospitals. A few steps on small scans, made here; the table goes to benchmarks/results.
"""

import argparse
import contextlib
import os
import tempfile
import time
from pathlib import Path
from threading import Event, Thread

import psutil
import yaml
from common import facts, memory, table, write_page
from growth import NETWORKS, ROUNDS, of_network, write_scans

from federation import flare_settings, make_job, mb
from fedmr.federation.kits import Kits, provision
from fedmr.federation.processes import processes, start, stop
from fedmr.federation.session import COMPLETED, Admin
from fedmr.utils.environment import ROOT

INTERVAL = 1.0  # seconds
ENDED = psutil.Error, OSError, KeyError, ValueError  # what a process raises that ends while it is looked at


class Watch(Thread):
    """Most memory and threads of the server's processes while a job runs: of the one that stays, and of the job's."""

    def __init__(self, kits: Kits) -> None:
        super().__init__(daemon=True)
        self.kits, self.server, self.ended = kits.folder, kits.folder / kits.server["name"], Event()
        self.memory: dict[int, int] = {}
        self.threads: dict[int, int] = {}
        self.together = 0  # bytes of the server's and all sites' processes, shared pages counted once
        self.before = {process.pid for process in processes(self.server)}

    def run(self) -> None:
        while not self.ended.wait(INTERVAL):
            for process in processes(self.server):
                with contextlib.suppress(*ENDED):
                    self.memory[process.pid] = memory(process.pid)[1]
                    self.threads[process.pid] = max(self.threads.get(process.pid, 0), process.num_threads())
            together = 0
            for process in processes(self.kits):
                with contextlib.suppress(*ENDED):
                    together += process.memory_full_info().pss
            self.together = max(self.together, together)

    def largest(self, *, job: bool) -> tuple[int, int]:
        """Bytes and threads of the largest process of one kind."""
        kind = [pid for pid in self.memory if (pid not in self.before) == job]
        return max((self.memory[pid], self.threads[pid]) for pid in kind)


def project(folder: Path, sites: int) -> Path:
    """The project of poc/ with as many sites."""
    entries = yaml.safe_load((ROOT / "poc" / "project.yml").read_text())
    others = [entry for entry in entries["participants"] if entry["type"] != "client"]
    model = next(entry for entry in entries["participants"] if entry["type"] == "client")
    clients = [model | {"name": f"site-{number}"} for number in range(1, sites + 1)]
    path = folder / "project.yml"
    path.write_text(yaml.safe_dump(entries | {"participants": [*others, *clients]}, sort_keys=False))
    return path


def run(sites: int, folder: Path, jobs: dict[str, Path]) -> list[list[str]]:
    """A row for each job."""
    write_scans(folder / "data", sites)
    kits, _ = provision(project(folder, sites), folder / "federation", data=folder / "data")
    try:
        start(kits, timeout=300, say=lambda line: None)
        return [[str(sites), name, *one_job(kits, job)] for name, job in jobs.items()]
    finally:
        stop(kits, say=lambda line: None)


def one_job(kits: Kits, job: Path) -> list[str]:
    """Cells of a job that all sites take part in."""
    watch = Watch(kits)
    watch.start()
    admin, started = Admin(kits), time.monotonic()
    status = admin.wait(admin.submit(job))
    seconds = time.monotonic() - started
    watch.ended.set()
    watch.join()
    if status != COMPLETED:
        raise RuntimeError(f"the job with {len(kits.sites)} sites ended as {status}")
    (stays, _), (held, threads) = watch.largest(job=False), watch.largest(job=True)
    cells = [f"{seconds:.0f}", mb(held), str(threads), mb(stays), mb(watch.together)]
    print(len(kits.sites), *cells, flush=True)
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[2, 4, 8, 16])
    numbers = parser.parse_args().sites
    known, rows = facts(), []
    os.environ.update(flare_settings())  # which FLARE's processes inherit
    with tempfile.TemporaryDirectory() as name:
        jobs = {
            network: make_job(Path(name) / network, ROUNDS, overlay=of_network(NETWORKS[network]))
            for network in ("demo", "paper")
        }
        for sites in numbers:
            folder = Path(name) / str(sites)
            folder.mkdir()
            rows += run(sites, folder, jobs)
    head = ["sites", "network", "seconds", "server's process of the job", "its threads", "the one that stays", "all"]
    note = (
        f"The demo job with nine steps a round, {ROUNDS} rounds, in federations provisioned anew, every site with "
        "processes of its own and a connection over TLS; from submission to the end. Memory: largest of a process. The "
        "process that stays takes in jobs and passes messages on. All: the server and all sites together, shared pages "
        "counted once."
    )
    write_page("provisioned", "The server of a provisioned federation", known, table(head, rows), note)


if __name__ == "__main__":
    main()
