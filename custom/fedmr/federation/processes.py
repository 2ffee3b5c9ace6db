"""Start and stop the server and the sites of a federation on this machine, by the scripts of their kits."""

import contextlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from fedmr.federation.kits import ConsortiumError, Kits, environment, free_port
from fedmr.federation.session import Admin

_PATIENCE = 20.0  # seconds that a process has to end by itself


def processes(kit: Path) -> list[psutil.Process]:
    """Processes that run for a kit: the script that watches over it, FLARE's, and those of jobs."""
    name, found = str(kit.resolve()), []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(word == name or word.startswith(f"{name}/") for word in words):
            found.append(process)
    return found


def start(kits: Kits, *, timeout: float = 120, say: Callable[[str], None] = print) -> None:
    """Start what does not run yet, and wait until every site is registered.

    Args:
        kits: the federation.
        timeout: seconds to wait.
        say: receives progress for people.

    Raises:
        ConsortiumError: a port is taken, or someone is missing after the time; names it and the end of its log.
    """
    server = kits.folder / kits.server["name"]
    if not processes(server):
        for port in kits.ports:
            if free_port(port) != port:
                raise ConsortiumError(
                    f"port {port} of the server is taken by another program; stop that, or provision anew "
                    "in another --workspace, which picks free ports"
                )
    for kit in (server, *(kits.folder / site for site in kits.sites)):
        if processes(kit):
            say(f"{kit.name} runs already")
            continue
        for flag in ("shutdown.fl", "restart.fl", "pid.fl", "daemon_pid.fl"):
            (kit / flag).unlink(missing_ok=True)  # of processes that are gone
        with (kit / "console.txt").open("ab") as log:
            subprocess.Popen(
                [str((kit / "startup" / "start.sh").resolve())],
                env=environment(kits.workspace),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=kit,
                start_new_session=True,
            )
        say(f"{kit.name} started")
    _wait_for_sites(kits, time.monotonic() + timeout, timeout)


def _wait_for_sites(kits: Kits, end: float, timeout: float) -> None:
    missing, reason = set(kits.sites), "the server does not answer"
    while time.monotonic() < end:
        with contextlib.suppress(ConsortiumError):
            missing = set(kits.sites) - set(Admin(kits).registered())
            reason = f"not registered: {', '.join(sorted(missing))}"
            if not missing:
                return
        time.sleep(1)
    name = sorted(missing)[0] if reason.startswith("not") else kits.server["name"]
    raise ConsortiumError(
        f"after {timeout:.0f} s {reason}. The end of {name}'s log:\n{_tail(kits.folder / name)}\n"
        "`fedmr poc stop` stops what was started"
    )


def _tail(kit: Path, lines: int = 8) -> str:
    for name in ("log.txt", "console.txt"):
        if (kit / name).is_file():
            return "\n".join((kit / name).read_text(errors="replace").splitlines()[-lines:])
    return "(none)"


def stop(kits: Kits, *, say: Callable[[str], None] = print) -> None:
    """Stop the federation: by the admin's command, then by the kits' own flag, and at last by force.

    Raises:
        ConsortiumError: a process is left, or a port is still taken.
    """
    names = [*kits.sites, kits.server["name"]]
    running = [name for name in names if processes(kits.folder / name)]
    if not running:
        say("nothing runs")
        return
    for name in running:
        (kits.folder / name / "shutdown.fl").touch()  # the kit's script must not start it again
    with contextlib.suppress(ConsortiumError):  # a server that is gone cannot be asked
        Admin(kits).shut_down()
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and any(processes(kits.folder / name) for name in running):
        time.sleep(0.5)
    for name in running:
        left = processes(kits.folder / name)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=5)
        say(f"{name} stopped" + (f" by force ({len(left)} processes)" if left else ""))
    if left := [process.pid for name in names for process in processes(kits.folder / name)]:
        raise ConsortiumError(f"processes {left} do not end; look at them with ps")
