"""Checks on a site's scans. Thresholds: no scan of the benchmarks comes near one; what lies beyond is worth a look."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

import numpy as np

from fedmr.data.splits import SPLITS
from fedmr.hospital.preflight.site import Check, ScanFigures, SiteFindings, judge, some

MIN_SLICES = 5  # usable ones, per scan
MAX_PEAK = 10.0  # maximum over 99.9th percentile; real scans: 1.2 to 3.8
MAX_CLIPPED = 1e-3  # share of the foreground at exactly the maximum; real scans: below 1e-5
MAX_INTENSITY_RATIO = 10.0  # to the median of the contrast
MAX_FIELD_RATIO = 2.0  # to the median of the contrast
VOXEL_SIZES = (0.2, 6.0)  # mm in plane
MAX_VOXEL_RATIO = 2.0  # largest over smallest of a contrast: one scan's high resolution is another's low one
MAX_TILT = 35.0  # degrees; from 45 the nearest axis is another one

_PREPARE = "mend or leave out these files, then run `fedmr prepare` again"


def datalist(site: SiteFindings) -> Check:
    """The datalist names the folder it lies in, by which the learner finds it."""
    name, entries = site.datalist.get("site", site.folder.name), site.entries
    wrong = [f"{site.folder / 'datalist.json'} is of site {name!r}, its folder is {site.folder.name!r}"]
    remedy = "name the folder as the FLARE site is named; the learner looks for <data root>/<site name>"
    return judge("datalist", f"{len(entries)} volumes", remedy, warns=wrong if name != site.folder.name else ())


def files(site: SiteFindings) -> Check:
    """Every file can be read and used."""
    voxels = sum(np.prod(scan.shape) for scan in site.scans)
    good = f"{len(site.scans)} volumes readable and finite, {voxels / 1e6:.0f} million voxels"
    return judge("files", good, _PREPARE, fails=site.bad)


_PART = {"train": "train", "val": "help to select the best model", "test": "test models"}


def splits(site: SiteFindings) -> Check:
    """Every split has volumes; training has more than one patient."""
    patients, volumes = _patients(site), Counter(entry["split"] for entry in site.entries)
    found = [f"{split} {volumes[split]} ({len(patients[split])})" for split in SPLITS]
    empty = [
        f"split {split!r} has no volume, so the site does not {_PART[split]}" for split in _PART if not patients[split]
    ]
    lonely = [
        f"training has one patient, {p!r}: each update tells of that person alone"
        for p in patients["train"]
        if len(patients["train"]) == 1
    ]
    useless = [f"neither {' nor '.join(SPLITS)} has a volume"] if len(empty) == len(SPLITS) else []
    remedy = "add patients and run `fedmr prepare` again, or let those responsible for the data accept it"
    return judge("splits", f"volumes (patients): {', '.join(found)}", remedy, fails=useless, warns=[*empty, *lonely])


def patients(site: SiteFindings) -> Check:
    """No patient is in two splits."""
    members = _patients(site)
    everyone = set().union(*members.values())
    shared = []
    for patient in sorted(everyone):
        where = [split for split in SPLITS if patient in members[split]]
        if len(where) > 1:
            shared.append(f"patient {patient!r} is in {' and '.join(where)}")
    remedy = "give all scans of a patient one split: run `fedmr prepare` again, or mend the split file"
    return judge("patients", f"{len(everyone)} patients, each in one split", remedy, fails=shared)


def duplicates(site: SiteFindings) -> Check:
    """No scan is there twice, however it is stored."""
    same = [group for group in _groups(site, lambda scan: scan.content).values() if len(group) > 1]
    fails, warns = [], []
    for group in same:
        text = f"{some(s.image for s in group)}" + (" is listed twice" if len({s.image for s in group}) == 1 else "")
        splits, owners = {s.split for s in group}, {s.patient for s in group}
        if len(splits) > 1 or len(owners) > 1:
            fails.append(f"the same scan: {text}; of {some(sorted(owners))} in {' and '.join(sorted(splits))}")
        else:
            warns.append(f"the same scan: {text}")
    return judge("duplicates", "none", "keep one of each and run `fedmr prepare` again", fails=fails, warns=warns)


def slices(site: SiteFindings) -> Check:
    """Every split has slices to learn from, and every scan a few."""
    groups = _groups(site, lambda scan: scan.split)
    usable = {split: sum(s.usable for s in scans) for split, scans in groups.items()}
    empty = [f"split {split!r} has no slice with enough foreground" for split, number in usable.items() if not number]
    few = [f"{s.image}: {s.usable} of {s.shape[0]} slices" for s in site.scans if s.usable < MIN_SLICES]
    few = [f"fewer than {MIN_SLICES} slices with enough foreground: {some(few)}"] if few else []
    good = ", ".join(f"{split} {usable[split]}" for split in SPLITS if split in usable) + " with enough foreground"
    remedy = "leave out these scans, mend those whose intensities are noted below, or take a task of smaller patches"
    return judge("slices", good, remedy, fails=empty, warns=few)


def patch(site: SiteFindings) -> Check:
    """Every training slice holds a patch, flipped or not."""
    need = site.task.smallest_side
    small = [
        f"{s.image} has slices of {s.shape[1]} x {s.shape[2]} voxels; {need} are needed"
        for s in site.scans
        if s.split == "train" and min(s.shape[1:]) < need
    ]
    smallest = min((min(s.shape[1:]) for s in site.scans if s.split == "train"), default=0)
    good = f"smallest side {smallest} voxels; the task needs {need}"
    return judge("patch", good, "leave out these scans, or take a task of smaller patches", fails=small)


def intensities(site: SiteFindings) -> Check:
    """No spikes, no saturation, no lost slices."""
    problems = [
        *(
            f"{s.image}: maximum is {s.peak:.0f} times the 99.9th percentile (spike or metal?)"
            for s in site.scans
            if s.peak > MAX_PEAK
        ),
        *(
            f"{s.image}: {s.clipped:.1%} of the foreground is at the maximum (saturated)"
            for s in site.scans
            if s.clipped > MAX_CLIPPED
        ),
        *(f"{s.image}: constant slices between others: {s.gaps} (lost?)" for s in site.scans if s.gaps),
    ]
    negative, peak = max(s.negative for s in site.scans), max(s.peak for s in site.scans)
    good = f"maximum up to {peak:.1f} times the 99.9th percentile; no saturation, no lost slices"
    good += f"; up to {negative:.2%} of voxels below 0 are read as 0" if negative else ""
    return judge("intensities", good, "look at these scans; convert them again or leave them out", warns=problems)


def contrasts(site: SiteFindings) -> Check:
    """Scans of one contrast look alike in intensity and size."""
    warns = []
    for contrast, group in _groups(site, lambda scan: scan.contrast).items():
        for scan, value, usual in _outliers(group, lambda s: s.median, MAX_INTENSITY_RATIO):
            warns.append(f"{scan.image}: foreground median {value:.4g}, {contrast} usually {usual:.4g}")
        for scan, value, usual in _outliers(group, _field, MAX_FIELD_RATIO):
            warns.append(f"{scan.image}: field of view {value:.0f} mm, {contrast} usually {usual:.0f} mm")
    counts = {c: len(group) for c, group in _groups(site, lambda scan: scan.contrast).items()}
    good = f"{', '.join(f'{n} {contrast}' for contrast, n in sorted(counts.items()))}; alike in brightness and size"
    return judge("contrasts", good, "see that these scans show the same body part and contrast", warns=warns)


def voxel_sizes(site: SiteFindings) -> Check:
    """Voxel sizes are those of MR scans, and of one contrast not a factor of the task apart."""
    low, high = VOXEL_SIZES
    warns = [f"{s.image}: {s.stated}" for s in site.scans if s.stated]
    warns += [
        f"{s.image}: {_in_plane(s)} mm in plane; usual are {low:g} to {high:g}"
        for s in site.scans
        if min(s.voxel[1:]) < low or max(s.voxel[1:]) > high
    ]
    found = []
    for contrast, group in sorted(_groups(site, lambda scan: scan.contrast).items()):
        fine, coarse = min(group, key=_pixel), max(group, key=_pixel)
        found.append(f"{contrast} {' to '.join(dict.fromkeys(f'{_pixel(s):.2f}' for s in (fine, coarse)))} mm in plane")
        if _pixel(coarse) >= MAX_VOXEL_RATIO * _pixel(fine):
            warns.append(
                f"{contrast} is mixed: {_in_plane(fine)} mm in {fine.image}, {_in_plane(coarse)} mm in {coarse.image}"
            )
    remedy = "see whether units and resampling are right; train scans of very different resolution apart"
    return judge("voxel sizes", ", ".join(found), remedy, warns=warns)


def resolution(site: SiteFindings) -> Check:
    """No scan is on a grid finer than the acquired, where it is not the truth for super-resolution."""
    warns = [f"{s.image}: {s.finer}" for s in site.scans if s.finer]
    remedy = "run `fedmr prepare` without --keep-grid, which crops their k-space to what was acquired"
    return judge("resolution", "every scan is on the grid that was acquired", remedy, warns=warns)


def orientation(site: SiteFindings) -> Check:
    """Every scan says how it lies, and lies near the body's axes."""
    warns = [note for s in site.scans for note in s.notes]
    warns += [f"{s.image} is tilted by {s.tilt:.0f} degrees" for s in site.scans if s.tilt > MAX_TILT]
    counts = {plane: len(group) for plane, group in _groups(site, lambda scan: scan.plane).items()}
    tilt = max(s.tilt for s in site.scans)
    good = ", ".join(f"{n} {plane}" for plane, n in sorted(counts.items())) + f"; tilted by at most {tilt:.0f} degrees"
    remedy = "convert these scans again from the originals; else their slices may be turned unlike the others'"
    return judge("orientation", good, remedy, warns=warns)


def _patients(site: SiteFindings) -> dict[str, set[str]]:
    return {split: {e["patient"] for e in site.entries if e["split"] == split} for split in SPLITS}


def _groups(site: SiteFindings, key: Callable[[ScanFigures], str]) -> dict[str, list[ScanFigures]]:
    groups = defaultdict(list)
    for scan in site.scans:
        groups[key(scan)].append(scan)
    return groups


def _outliers(
    group: list[ScanFigures], figure: Callable[[ScanFigures], float], ratio: float
) -> Iterator[tuple[ScanFigures, float, float]]:
    """Scans whose figure is off the group's median by more than the ratio, with both."""
    usual = float(np.median([figure(scan) for scan in group]))
    for scan in group:
        if not usual / ratio <= figure(scan) <= usual * ratio:
            yield scan, figure(scan), usual


def _field(scan: ScanFigures) -> float:
    """Longer side of a slice in mm."""
    return max(n * size for n, size in zip(scan.shape[1:], scan.voxel[1:], strict=True))


def _pixel(scan: ScanFigures) -> float:
    return float(np.sqrt(scan.voxel[1] * scan.voxel[2]))


def _in_plane(scan: ScanFigures) -> str:
    return f"{scan.voxel[1]:.3g} x {scan.voxel[2]:.3g}"
