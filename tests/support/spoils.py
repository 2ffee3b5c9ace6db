"""Ways to spoil a healthy site, with the rows of preflight that must say so."""

import json
import shutil

import nibabel as nib
import numpy as np

from fedmr.data.datalist import read_datalist
from phantoms import phantom

SITE = "site-1"


PATIENTS = 5  # the last is test, the one before val


def edit(folder, change):
    datalist = read_datalist(folder)
    change(datalist)
    (folder / "datalist.json").write_text(json.dumps(datalist))


def edit_volume(number, **values):
    return lambda folder: edit(folder, lambda datalist: datalist["volumes"][number].update(values))


def image(folder, number=0):
    return folder / read_datalist(folder)["volumes"][number]["image"]


def write(folder, voxels, number=0, zooms=(1.0, 1.0, 5.0)):
    nib.save(nib.Nifti1Image(voxels, np.diag([*zooms, 1.0])), image(folder, number))


def write_image(number=0, zooms=(1.0, 1.0, 5.0), **values):
    return lambda folder: write(folder, phantom(7, **values), number, zooms)


def change_voxels(change, number=0):
    def spoil(folder):
        write(folder, change(np.asarray(nib.load(image(folder, number)).dataobj).copy()), number)

    return spoil


def spike(voxels, height=30000):
    voxels[20, 20, 2] = height
    return voxels


def lose_a_slice(voxels):
    return np.concatenate([voxels, 0 * voxels[..., :1], voxels[..., ::-1]], axis=2)


def speck(voxels):
    voxels[:] = 0
    voxels[20:23, 20:23] = np.random.default_rng(0).integers(400, 500, (3, 3, voxels.shape[2]))
    return voxels


def turned_copy(folder):
    """The first scan again as the last one's file, stored in another order with another type and a wider margin."""
    voxels = np.asarray(nib.load(image(folder)).dataobj)
    padded = np.pad(voxels, ((2, 3), (0, 4), (0, 0))).astype(np.float32)
    other = nib.Nifti1Image(padded, np.diag([1.0, 1.0, 5.0, 1.0]))
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt("PLI"))
    nib.save(other.as_reoriented(turn), image(folder, PATIENTS - 1))


def flipped_copy(folder):
    """The first scan again beside it, mirrored without a word in its affine."""
    write(folder, np.asarray(nib.load(image(folder)).dataobj)[::-1], number=1)
    edit_volume(1, patient="sub-0")(folder)


def forget_orientation(folder):
    volume = nib.Nifti1Image(phantom(7), None)
    volume.header.set_zooms((1.0, 1.0, 5.0))
    volume.header["sform_code"] = volume.header["qform_code"] = 0
    nib.save(volume, image(folder))


def tilt(folder):
    angle = np.radians(40)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.0, 1.0, 5.0])
    nib.save(nib.Nifti1Image(phantom(7), affine), image(folder))


def add_kspace(folder):
    np.save(folder / "raw.npy", np.zeros((5, 1, 8, 8), np.float32))
    edit_volume(0, kspace="raw.npy")(folder)


def move_out(folder):
    shutil.move(folder / "sub-0", folder.parent / "elsewhere")
    edit_volume(0, image="../elsewhere/anat/sub-0_T1w.nii.gz")(folder)


def rename(folder):
    image(folder).rename(folder / "scan_19540312.nii.gz")
    edit_volume(0, image="scan_19540312.nii.gz")(folder)


def make_private(mode):
    def spoil(folder):
        (folder / "private").mkdir()
        (folder / "private").chmod(mode)

    return spoil


def all_of_one_patient(folder):
    for number in range(PATIENTS - 2):
        edit_volume(number, patient="sub-0")(folder)


def train_on_nothing(folder):
    for number in range(PATIENTS):
        edit_volume(number, split="test" if number else "val")(folder)


FILES = {"files": "fail", "training": "fail"}


SPOILS = {
    "no JSON": (lambda s: (s / "datalist.json").write_text("{"), {"datalist": "fail"}, "not valid JSON"),
    "another site's datalist": (lambda s: edit(s, lambda d: d.update(site="b")), {"datalist": "warn"}, "of site 'b'"),
    "missing file": (lambda s: image(s).unlink(), FILES, "sub-0_T1w.nii.gz does not exist"),
    "truncated file": (lambda s: image(s).write_bytes(image(s).read_bytes()[:900]), FILES, "cannot be read"),
    "NaN": (change_voxels(lambda v: np.where(v > 900, np.nan, v)), FILES, "NaN or infinite"),
    "other shape": (edit_volume(0, shape=[48, 45, 9]), FILES, "says [48, 45, 9]"),
    "k-space that is none": (add_kspace, {"files": "fail"}, "raw.npy holds float32 of shape (5, 1, 8, 8)"),
    "no test volume": (edit_volume(4, split="val"), {"splits": "warn"}, "'test' has no volume"),
    "no validation volume": (edit_volume(3, split="test"), {"splits": "warn"}, "does not help to select"),
    "nothing to train on": (train_on_nothing, {"splits": "warn"}, "so the site does not train"),
    "one training patient": (all_of_one_patient, {"splits": "warn"}, "one patient, 'sub-0'"),
    "patient in two splits": (edit_volume(3, patient="sub-1"), {"patients": "fail"}, "'sub-1' is in train and val"),
    "scan in two splits": (turned_copy, {"duplicates": "fail"}, "sub-0, sub-4 in test and train"),
    "scan twice in a split": (flipped_copy, {"duplicates": "warn"}, "sub-1_T1w.nii.gz"),
    "mask": (change_voxels(lambda v: np.uint8(v > 300)), {"files": "fail"}, "no magnitude image of anatomy (mask"),
    "few slices": (write_image(shape=(48, 45, 3)), {"slices": "warn"}, "sub-0_T1w.nii.gz: 3 of 3"),
    "background only": (change_voxels(speck, 4), {"files": "fail"}, "sparse map: 0.42% of its voxels"),
    "small slices": (
        write_image(shape=(22, 22, 5), zooms=(1.5, 1.5, 5.0)),
        {"patch": "fail", "training": "fail"},
        "slices of 22 x 22 voxels; 26 are needed",
    ),
    # training takes the spike for the maximum and leaves out slices that are dark beside it: both are said
    "spike": (
        change_voxels(spike),
        {"slices": "warn", "intensities": "warn"},
        "sub-0_T1w.nii.gz: 4 of 5 slices\nleave out these scans, mend those whose intensities are noted below",
    ),
    "faint spike": (change_voxels(lambda v: spike(v, 12000)), {"intensities": "warn"}, "sub-0_T1w.nii.gz: maximum is"),
    "saturation": (change_voxels(lambda v: np.minimum(v, 500)), {"intensities": "warn"}, "(saturated)"),
    "lost slice": (change_voxels(lose_a_slice), {"intensities": "warn"}, "constant slices between others: 1"),
    "other unit": (change_voxels(lambda v: 15.0 * v), {"contrasts": "warn"}, "sub-0_T1w.nii.gz: foreground median"),
    "other body part": (write_image(shape=(130, 120, 5)), {"contrasts": "warn"}, "field of view 130 mm"),
    "other resolution": (
        write_image(shape=(30, 28, 5), zooms=(2.0, 2.0, 5.0)),
        {"voxel sizes": "warn"},
        "2 x 2 mm in sub-0",
    ),
    "wrong voxel size": (
        edit_volume(0, spacing=[1.0, 1.0, 4.0]),
        {"voxel sizes": "warn"},
        "[1.0, 1.0, 4.0] in the datalist, 1 x 1 x 5 mm",
    ),
    "no orientation": (forget_orientation, {"orientation": "warn"}, "sub-0_T1w.nii.gz states no orientation"),
    "tilted": (tilt, {"orientation": "warn"}, "tilted by 40 degrees"),
    "shared pictures": (lambda s: edit(s, lambda d: d.update(share_images=True)), {"pictures": "warn"}, "is sent"),
    "path out of the folder": (move_out, {"paths": "warn"}, "1 of 5 paths leave"),
    "absolute path": (lambda s: edit_volume(0, image=str(image(s)))(s), {"paths": "warn"}, "1 of 5 paths leave"),
    "a name": (edit_volume(4, patient="DOE^JANE"), {"pseudonyms": "warn"}, "'DOE^JANE'"),
    "a date": (rename, {"pseudonyms": "warn"}, "'scan_19540312.nii.gz'"),
    "open private folder": (make_private(0o755), {"private": "fail"}, "mode 0755"),
}
