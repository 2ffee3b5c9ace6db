"""Who is meant to take part in a job, checked before it is submitted."""

from collections.abc import Collection, Sequence
from pathlib import Path

from fedmr.federation.configured import mean_sites, read_deployment, read_least_sites
from fedmr.federation.kits import ConsortiumError


def invite(
    job: Path, known: Sequence[str], connected: Collection[str], *, wanted: Sequence[str], required: Sequence[str]
) -> list[str]:
    """Write into a job who is meant to take part, and return those of them that are not connected now.

    Args:
        job: job folder, changed in its place.
        known: sites of the federation.
        connected: those that the server knows now.
        wanted: sites that are meant; if empty those of the job's own `deploy_map`, all for "@ALL".
        required: sites without which the job must not start.

    Raises:
        ConsortiumError: a name that is no site's, or too few of the sites are connected for the job to start.
        ValueError: as `configured.mean_sites`.
    """
    sites = list(wanted) or [name for name in read_deployment(job) if name != "server"]
    sites = list(known) if not sites or sites == ["@ALL"] else sites
    if strange := sorted({*sites, *required} - set(known)):
        raise ConsortiumError(
            f"{', '.join(strange)} is no site of this federation; its sites are {', '.join(known)}. Mend the name in "
            "--sites, --require or the job's deploy_map"
        )
    mean_sites(job, sites, required)
    absent = [site for site in sites if site not in connected]
    if missing := [site for site in required if site in absent]:
        raise ConsortiumError(f"{', '.join(missing)} is required and not connected; start it, or submit without")
    here, least = len(sites) - len(absent), read_least_sites(job)
    if here < least:
        raise ConsortiumError(
            f"{here} of {len(sites)} sites are connected and the job needs {least} (min_clients_per_round); missing: "
            f"{', '.join(absent)}. Start them"
        )
    return absent
