"""Federated statistics as FLARE's server wrote them: what each site's scans are like, and all of them pooled."""

from collections.abc import Iterable, Sequence
from typing import Any

from fedmr.data.statistics import INTENSITY, PER_PATIENT, PER_VOLUME
from fedmr.runs.checks import RecordError, Refused, RunError, listed, mapping, number, whole
from fedmr.runs.figures import Figures
from fedmr.utils.text import one_line

_POOLED = "Global"  # FLARE's name for all sites together
_MOST_RECORDS = 10**12
_LARGEST = 1e15  # of a mean or deviation, in any unit


def read_statistics(raw: Any, sites: Iterable[str], refused: Refused) -> Figures:
    """Check the statistics of a run.

    Args:
        raw: content of FLARE's statistics.json.
        sites: of the job.
        refused: takes sites whose figures are none.

    Returns:
        data set -> ``{"edges": [..], "sites": {SITE: ROW or None}, "all sites": ROW}``, None for a hidden site; a ROW
        holds "patients", "volumes", {"mean", "stddev"} per feature, "histogram" of the intensities, and "shift" (see
        `shift`).

    Raises:
        RunError: a site or one of its figures is missing, or the pooled figures are none.
    """
    data_sets: Figures = {}
    try:
        for name in mapping(raw, "it")[PER_PATIENT]["count"][_POOLED]:
            pooled = _row(raw, _POOLED, name)
            edges = _edges(raw[INTENSITY]["histogram"][_POOLED][name]) if pooled else []
            rows_by_site: dict[str, Figures | None] = {}
            for site in sites:
                try:
                    rows_by_site[site] = _row(raw, site, name, len(edges) - 1)
                except RecordError as error:
                    refused.add(f"statistics of {site}, data set {name}", f"{error}. The pooled figures include it")
            for row in [*rows_by_site.values(), pooled]:
                if row and pooled:
                    row["shift"] = shift(row["histogram"], pooled["histogram"])
            data_sets[one_line(name, 60)] = {"edges": edges, "sites": rows_by_site, "all sites": pooled}
    except KeyError as error:
        raise RunError(
            f"statistics.json is incomplete: it has no {one_line(error)}. Look into the sites' log.txt"
        ) from None
    except (RecordError, TypeError, AttributeError, IndexError) as error:
        raise RunError(f"statistics.json is none of FLARE's: {one_line(error)}. Run the job again") from None
    return data_sets


def _row(raw: Any, site: str, data_set: str, bins: int | None = None) -> Figures | None:
    """The figures of one site, or of all.

    Raises:
        KeyError: a figure is missing.
        RecordError: a figure is none.
    """
    patients = whole(raw[PER_PATIENT]["count"][site][data_set], "patients", 0, _MOST_RECORDS)
    if patients == 0:
        return None
    moments = {
        name: {
            statistic: number(raw[name][statistic][site][data_set], f"{statistic} of {name}", 0, _LARGEST)
            for statistic in ("mean", "stddev")
        }
        for name in (INTENSITY, *PER_VOLUME, PER_PATIENT)
    }
    counts = [whole(n, "a count", 0, _MOST_RECORDS) for _, _, n in _bins(raw[INTENSITY]["histogram"][site][data_set])]
    if not any(counts) or (bins is not None and len(counts) != bins):
        raise RecordError(f"its histogram has {len(counts)} bins and {sum(counts)} voxels")
    volumes = whole(raw["slices"]["count"][site][data_set], "volumes", 1, _MOST_RECORDS)
    return {"patients": patients, "volumes": volumes, **moments, "histogram": counts}


def _bins(histogram: Any) -> list[Any]:
    found = listed(histogram, "histogram")
    if not all(isinstance(one, list) and len(one) == 3 for one in found):
        raise RecordError("its histogram has bins that are not [low, high, count]")
    return found


def _edges(histogram: Any) -> list[float]:
    found = _bins(histogram)
    edges = [low for low, _, _ in found] + [high for _, high, _ in found[-1:]]
    return [number(edge, "an edge of the histogram", -_LARGEST, _LARGEST) for edge in edges]


def shift(site: Sequence[int], pooled: Sequence[int]) -> float:
    """Jensen-Shannon divergence of two histograms with the same bins, in bit: 0 for equal ones, 1 for disjoint ones.

    With M = (P + Q) / 2 it is D(P||M) / 2 + D(Q||M) / 2, D the Kullback-Leibler divergence (Lin, IEEE Trans. Inf.
    Theory 37(1), 1991).
    """
    from scipy.spatial.distance import jensenshannon

    return float(jensenshannon(site, pooled, base=2) ** 2)
