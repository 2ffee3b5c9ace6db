"""Simulated hospitals: multi-contrast, multi-slice head MR from real brain anatomy, with no download.

The brain is the 1 mm ICBM152 2009a average (Fonov et al., NeuroImage 54:313, 2011) in nilearn, without skull.
A patient is a random deformation of it with crisp borders; skull and scalp are schematic layers, there is no
face. The scanner works in k-space: partial volume, Gibbs ringing and Rician noise are real. Lengths in mm,
times in ms, arrays [X, Y, Z] right-anterior-superior, positions in the template's space.
"""

import gzip
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

Array = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]
Say = Callable[[str], None]

# Tissue: field strength (T): proton density, T1, T2; bone, flowing blood, air give no signal. 1.5 T and all
# densities: BrainWeb (Kwan, Evans, Pike, IEEE Trans Med Imaging 18:1085, 1999). 3 T: wm, gm Wansapura et al.,
# JMRI 9:531, 1999; csf T1 Lu et al., JMRI 22:13, 2005, apparent T2 Piechnik et al., MRM 61:579, 2009; muscle
# Stanisz et al., MRM 54:507, 2005; fat, marrow de Bazelaire et al., Radiology 230:652, 2004.
TISSUES: dict[str, dict[float, tuple[float, float, float]]] = {
    "wm": {1.5: (0.77, 500, 70), 3.0: (0.77, 832, 79)}, "gm": {1.5: (0.86, 833, 83), 3.0: (0.86, 1331, 110)},
    "csf": {1.5: (1.0, 2569, 329), 3.0: (1.0, 3817, 500)}, "fat": {1.5: (1.0, 350, 70), 3.0: (1.0, 382, 68)},
    "muscle": {1.5: (1.0, 900, 47), 3.0: (1.0, 1412, 50)},
    "marrow": {1.5: (0.77, 500, 70), 3.0: (0.77, 586, 49)},
}  # fmt: skip
_CENTRE = (0.0, -17.0, 22.0)  # where the middle of the stack lies in the template
_STEP, _PAD = 2, 16  # distance maps: every other template voxel, and samples around it for scalp and air
_sample = partial(ndimage.map_coordinates, output=np.float32, order=1, mode="constant")


@dataclass(frozen=True)
class ScanProtocol:
    """Protocol of one hospital. `field` (T) is one of TISSUES' two; `ti` is 0 for a spin echo."""

    name: str
    contrast: str
    field: float
    tr: float
    te: float
    ti: float
    matrix: tuple[int, int]  # acquired in-plane samples
    voxel: float  # in-plane, isotropic
    thickness: float  # no gaps
    slices: int
    noise: float  # standard deviation of each complex channel / 99.9th percentile of the signal
    gain: float  # stored value of that percentile
    shading: float = 0.12  # standard deviation of the log of the receive field


@dataclass(frozen=True)
class Anatomy:
    """The template. `white`, `fluid`: fractions on the grid of `affine` (index -> mm, diagonal), the rest is
    grey matter. `skull`, `skin`: mm outside the brain's hull and the head's core, on a coarser grid."""

    white: Array
    fluid: Array
    skull: Array
    skin: Array
    affine: Affine


def spin_echo(*, pd: float, t1: float, t2: float, tr: float, te: float) -> float:
    """Signal of a spin echo in units of `pd`: pd (1 - exp(-TR/T1)) exp(-TE/T2), for TE << TR."""
    return pd * (1 - math.exp(-tr / t1)) * math.exp(-te / t2)


def inversion_recovery(*, pd: float, t1: float, t2: float, tr: float, te: float, ti: float) -> float:
    """Signed signal of an inversion-recovery spin echo: pd (1 - 2 exp(-TI/T1) + exp(-TR/T1)) exp(-TE/T2)."""
    return pd * (1 - 2 * math.exp(-ti / t1) + math.exp(-tr / t1)) * math.exp(-te / t2)


def signals(site: ScanProtocol) -> dict[str, float]:
    """Signal of every tissue of TISSUES under the site's protocol; negative before its null point."""
    out = {}
    for name, by_field in TISSUES.items():
        known = dict(zip(("pd", "t1", "t2"), by_field[site.field], strict=True), tr=site.tr, te=site.te)
        out[name] = inversion_recovery(**known, ti=site.ti) if site.ti else spin_echo(**known)
    return out


_SITES = (
    ScanProtocol("site-1", "T1w", 1.5, 500.0, 14.0, 0.0, (200, 232), 1.0, 5.0, 24, 0.005, 1000.0),
    ScanProtocol("site-2", "T2w", 3.0, 4500.0, 100.0, 0.0, (216, 240), 0.95, 4.0, 30, 0.004, 1400.0),
    ScanProtocol("site-3", "PDw", 1.5, 6500.0, 18.0, 0.0, (189, 225), 1.05, 5.5, 22, 0.007, 900.0),  # odd on purpose
    ScanProtocol("site-4", "FLAIR", 3.0, 9000.0, 120.0, 2230.0, (180, 208), 1.15, 6.0, 20, 0.009, 1200.0),
)


def protocol(k: int) -> ScanProtocol:
    """Protocol of site k = 1, 2, ...: T1w, T2w, PDw, FLAIR in turn; from the fifth on resolution, field,
    times and noise vary, decided by k alone. Raises ValueError for k < 1."""
    if k < 1:
        raise ValueError(f"site number {k} is not possible: sites count from 1")
    lap, site = (k - 1) // 4, _SITES[(k - 1) % 4]
    if lap == 0:
        return site
    a, b, c = (lap * ratio % 1 for ratio in (0.618034, 0.754878, 0.569840))  # spread well for any lap
    field, tr = (4.5 - site.field if lap % 2 else site.field), site.tr * (0.9 + 0.2 * b)
    voxel, thickness = round(0.9 + 0.3 * a, 2), 4.0 + 0.5 * int(5 * b)
    t1 = TISSUES["csf"][field][1]  # ti 3 % short of the one that nulls fluid leaves a trace, as in the clinic
    ti = 0.97 * t1 * (math.log(2) - math.log1p(math.exp(-tr / t1))) if site.ti else 0.0
    site = replace(site, name=f"site-{k}", field=field, tr=tr, te=site.te * (0.9 + 0.2 * c), ti=ti)
    matrix, noise = (2 * round(100 / voxel) + lap % 2, 2 * round(118 / voxel)), round(0.003 + 0.007 * c, 4)
    site = replace(site, matrix=matrix, voxel=voxel, noise=noise)
    return replace(site, thickness=thickness, slices=round(120 / thickness))


def load_anatomy() -> Anatomy:
    """Read the template from the files of the nilearn package; FileNotFoundError where it lacks them."""
    import nilearn.datasets  # here, because it takes a second or more and nothing else needs it

    folder, maps = Path(nilearn.datasets.__file__).parent / "data", []
    for name in ("t1", "gm", "wm"):
        path = folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: install a nilearn that ships it (0.14 is known to)")
        maps.append(np.asarray(nib.load(path).dataobj, dtype=np.float32))
    t1, grey, white = maps
    # The maps count the sulci as cortex. The T1 (fluid 65, cortex 165, white matter 225) shows them: what is
    # darker than 156 is increasingly fluid, and so is what the maps call neither grey nor white.
    fluid = np.maximum(1 - (grey + white) / 255, np.clip((156 - t1) / 60, 0, 1)).astype(np.float32)
    return Anatomy(np.minimum(white / 255, 1 - fluid), fluid, *_distances(t1 > 0), nib.load(path).affine)


def _distances(brain: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    """Distance (mm) outside the brain's hull, and the head's core: the hull and its shadow downwards."""
    edt = ndimage.distance_transform_edt

    def close(mask: npt.NDArray[np.bool_], radius: float) -> npt.NDArray[np.bool_]:
        return np.asarray(edt(edt(~mask) <= radius / _STEP) > radius / _STEP)

    # 7 mm close the fissures, not the room below the temporal lobes; 24 mm because a scalp has no dents
    hull = close(np.pad(brain[::_STEP, ::_STEP, ::_STEP], _PAD), 7.0)
    head = close(np.maximum.accumulate(hull[:, :, ::-1], axis=2)[:, :, ::-1], 24.0)
    skull, skin = (ndimage.gaussian_filter(edt(~m) * _STEP, 1.5).astype(np.float32) for m in (hull, head))
    return skull, skin


def _field(rng: np.random.Generator, axes: list[Array], spacing: float, scale: float = 1.0) -> Array:
    """Gaussian random field on grid `axes`, deviation `scale`: a cubic B-spline, knots every `spacing`."""
    bases = []
    for axis in axes:
        t = (axis - axis.min()) / spacing
        low, f = np.floor(t).astype(int), t % 1
        basis = np.zeros((len(t), int(low.max()) + 4), np.float32)
        for i, w in enumerate(((1 - f) ** 3, 4 - 6 * f**2 + 3 * f**3, 1 + 3 * f + 3 * f**2 - 3 * f**3, f**3)):
            basis[np.arange(len(t)), low + i] = w / 6
        bases.append(basis)
    out: Array = rng.standard_normal([b.shape[1] for b in bases], dtype=np.float32) * np.float32(scale / 0.33)
    for basis in bases:  # contracts the first axis and appends the new one: in order after three turns
        out = np.tensordot(out, basis, axes=(0, 1))
    return out


def _double(x: Array) -> Array:
    """Linear interpolation of [..., n, m] to twice the samples, [..., 2n, 2m]; sample 0 stays in place."""
    out = np.empty((*x.shape[:-2], 2 * x.shape[-2], 2 * x.shape[-1]), np.float32)
    out[..., ::2, ::2], out[..., -1, ::2] = x, x[..., -1, :]
    out[..., 1:-1:2, ::2] = np.float32(0.5) * (x[..., :-1, :] + x[..., 1:, :])
    out[..., 1:-1:2] = np.float32(0.5) * (out[..., :-2:2] + out[..., 2::2])
    out[..., -1] = out[..., -2]
    return out


def _maps(anatomy: Anatomy, axes: list[Array], rng: np.random.Generator) -> list[Array]:
    """One patient, [planes, n, m]: white matter, fluid, mm outside skull and skin, two fields for details."""
    a, b, c = np.deg2rad(rng.normal(0, (2.5, 2.0, 3.0)))
    turn = np.array([[1, -c, b], [c, 1, -a], [-b, a, 1]]) * rng.normal(1, (0.03, 0.03, 0.02))
    z, x, y = np.ix_(*axes)  # mm from the middle of the stack
    index, half = [], []
    for i, origin in enumerate(rng.normal(_CENTRE, 1.5) - anatomy.affine[:3, 3]):
        p, q, r, voxel = (np.float32(v) for v in (*turn[i], anatomy.affine[i, i]))
        # far from folding: 2.2 mm on a 28 mm lattice move lobes and ventricles, 0.9 mm on 9 mm the gyri
        coarse = (p * x + q * y + r * z + np.float32(origin) + _field(rng, axes, 28.0, 2.2)) / voxel
        half.append(coarse[:, ::2, ::2] / _STEP + _PAD)  # distances are smooth, every other sample is enough
        index.append(coarse + _field(rng, axes, 9.0, 0.9) / voxel)
    skull, skin = (_double(_sample(d, half, cval=99.0)) for d in (anatomy.skull, anatomy.skin))
    skull, skin = (d[:, : len(axes[1]), : len(axes[2])] for d in (skull, skin))
    inside = skull < 4
    brain = [w[inside] for w in index]
    # The averaged atlas has borders 3 mm wide: 0.16 moves one by half a mm, other folds in every patient
    white = _field(rng, axes, 2.5, 0.16)
    white[inside] += _sample(anatomy.white, brain, cval=0.0)
    fluid = _field(rng, axes, 4.5, 0.12) + np.float32(rng.normal(0.07, 0.04))  # wide or narrow sulci
    fluid[inside] += _sample(anatomy.fluid, brain, cval=1.0)
    skull = skull + _field(rng, axes, 15.0, 0.4)
    return [white, fluid, skull, skin, _field(rng, axes, 5.0), _field(rng, axes, 5.0)]


def _ramp(x: Array, width: float) -> Array:
    """0 below -width/2, 1 above width/2, linear between."""
    return np.asarray(np.clip(x / np.float32(width) + np.float32(0.5), 0, 1))


def _layers(sizes: list[float], values: list[float], x: Array) -> Array:
    """Signal at depths x of layers of those sizes (mm), the last without end, with borders 0.6 mm wide."""
    knots = np.add.outer(np.cumsum(sizes), (-0.3, 0.3)).ravel()
    return np.asarray(np.interp(x, knots, np.repeat(values, 2)[1:-1]), np.float32)


def _compose(planes: list[Array], level: dict[str, float], sizes: list[float]) -> Array:
    """Signal of one thin plane [n, m] from its maps (see `_maps`), tissue signals and layer sizes (mm)."""
    white, fluid, skull, skin, spot, tube = planes
    parts = [np.clip(part, 0, 1) for part in (white, 1 - white - fluid, fluid)]
    for _ in range(4):  # 16th power, then normalised: crisp borders that are not yet binary
        parts = [part * part for part in parts]
    total = parts[0] + parts[1] + parts[2] + np.float32(1e-9)
    # where two random fields vanish together run tubes: vessels, dark from flow, faint outside the fluid
    vessel = _ramp(spot**2 + tube**2 - np.float32(0.058) * parts[2] / total + np.float32(0.008), 0.05)
    brain = (parts[0] * level["wm"] + parts[1] * level["gm"] + parts[2] * level["csf"]) * vessel / total
    gap, table, diploe, scalp = sizes
    end, flesh = gap + 2 * table + diploe, level["muscle"]
    bone = _layers([gap, table, diploe, table], [0, 0, level["marrow"], 0, 0], skull)
    cover = _layers([0, 1.2, 0.6 * scalp], [0, flesh, level["fat"], flesh], end + scalp - skin)
    inner = _ramp(gap - skull, 0.4)
    return np.asarray(brain * inner + np.where(skull < end, bone, cover) * (1 - inner), np.float32)


def _acquire(fine: Array, matrix: tuple[int, int]) -> npt.NDArray[np.complex64]:
    """Return the complex image (slices, n, m) that a scanner of matrix (n, m) makes of `fine` (slices, 2n, 2m)."""
    full = fft.fftshift(fft.fft2(fine), axes=(1, 2))
    rows, columns = (slice(n - n // 2, 2 * n - n // 2) for n in matrix)
    image = fft.ifft2(fft.ifftshift(full[:, rows, columns], axes=(1, 2)))
    return np.asarray(image / np.float32(4), np.complex64)


def simulate_patient(anatomy: Anatomy, site: ScanProtocol, *, rng: np.random.Generator) -> tuple[Array, Affine]:
    """Scan one random patient, which `rng` alone decides.

    Returns:
        magnitude (X, Y, S), float32, whose 99.9th percentile is `site.gain` before the noise; affine (4, 4) from
        voxel index to mm.
    """
    sub = math.ceil(site.thickness / 2)  # planes averaged into a slice: through-plane partial volume
    counts, steps = (*site.matrix, site.slices * sub), (site.voxel, site.voxel, site.thickness / sub)
    axes = [((np.arange(n) - (n - 1) / 2) * h).astype(np.float32) for n, h in zip(counts, steps, strict=True)]
    axes[2] += np.float32(rng.normal(0, 2))
    sizes = rng.uniform((1.5, 1.4, 1.5, 4.5), (2.8, 2.0, 3.5, 7.0)).tolist()  # mm, in the order of _compose
    maps, level = _maps(anatomy, [axes[2], *axes[:2]], rng), signals(site)
    fine = np.zeros((site.slices, 2 * site.matrix[0], 2 * site.matrix[1]), np.float32)
    for i in range(counts[2]):
        for x, y in ndimage.find_objects((maps[3][i] < 19).astype(np.int8)):  # the rest is air
            plane = _compose([_double(part[i, x, y]) for part in maps], level, sizes)
            fine[i // sub, 2 * x.start : 2 * x.stop, 2 * y.start : 2 * y.stop] += plane / np.float32(sub)
    axes[2] = axes[2].reshape(-1, sub).mean(axis=1)  # slice centres
    image = np.moveaxis(_acquire(fine, site.matrix), 0, 2) * np.exp(_field(rng, axes, 90.0, site.shading))
    image *= np.float32(site.gain / max(float(np.percentile(np.abs(image), 99.9)), 1e-6))
    noise = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(site.noise * site.gain)
    affine = np.diag([site.voxel, site.voxel, site.thickness, 1.0])
    affine[:3, 3] = [axis[0] + c for axis, c in zip(axes, _CENTRE, strict=True)]
    return np.hypot(image.real + noise[0], image.imag + noise[1]), affine


def split_of(patient: int, patients: int) -> str:
    """Split of patient 1..patients: the last are test (20 %, one below ten), before them val (10 %)."""
    test, val = (patients // 5, patients // 10) if patients >= 10 else (1, 1)
    return "test" if patient > patients - test else "val" if patient > patients - test - val else "train"


def _write(path: Path, volume: Array, affine: Affine) -> None:
    """Write int16 NIfTI, gzipped without a time stamp: the same scan gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.clip(np.rint(volume), 0, 32767).astype(np.int16), affine)
    image.header.set_xyzt_units("mm")
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))


def _refuse_real_data(site: Path) -> None:
    """FileExistsError where a datalist lies that this module did not write."""
    target = site / "datalist.json"
    if target.is_file() and '"simulated": true' not in target.read_text(encoding="utf-8"):
        raise FileExistsError(f"{target} is not of simulated data and is left alone: name another folder")


def make_hospitals(
    out: Path, *, sites: int = 4, patients: int = 6, seed: int = 0, progress: Say | None = None
) -> list[Path]:
    """Write OUT/site-k/sub-nnn/anat/sub-nnn_CONTRAST.nii.gz (int16), OUT/site-k/datalist.json; site folders.

    Site, patient and seed decide a scan: more sites or patients change none of the others. Other files stay.
    ValueError for less than 1 site, 3 patients (a split needs them) or seed 0, FileExistsError for a file or a site
    that holds other data. Pictures may be shared: nobody is in them."""
    for name, value, least in (("sites", sites, 1), ("patients", patients, 3), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name}={value} is not possible: use {least} or more")
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file, not a folder: name another folder or move the file away")
    for k in range(1, sites + 1):
        _refuse_real_data(out / protocol(k).name)
    anatomy, folders = load_anatomy(), []
    for k in range(1, sites + 1):
        site, volumes = protocol(k), []
        folders.append(out / site.name)
        for p in range(1, patients + 1):
            name, split = f"sub-{p:03d}", split_of(p, patients)
            image = f"{name}/anat/{name}_{site.contrast}.nii.gz"
            rng = np.random.default_rng(np.random.SeedSequence([seed, k, p]))
            _write(folders[-1] / image, *simulate_patient(anatomy, site, rng=rng))
            volumes.append({"image": image, "patient": name, "contrast": site.contrast, "split": split})
            if progress:
                progress(f"{site.name}: {name} {site.contrast} {split}")
        content = {"site": site.name, "simulated": True, "share_images": True, "volumes": volumes}
        (folders[-1] / "datalist.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return folders
