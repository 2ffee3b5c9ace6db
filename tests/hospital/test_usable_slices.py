"""Preflight counts as usable exactly the slices that the sampler of the task trains on."""

import nibabel as nib
import numpy as np
import pytest

from fedmr.data.datalist import read_datalist
from fedmr.hospital.preflight.site import read_site
from fedmr.tasks.registry import build_task

TASKS = {
    "super-resolution": {"network": {"name": "mscan", "scale": 2}, "patch_size": 12},
    "small patches": {"network": {"name": "mscan", "scale": 2}, "patch_size": 6, "degradation": "bicubic"},
    "reconstruction": {"network": {"name": "unet"}, "mask": {"acceleration": 4}, "size": 64},
    "large reconstruction": {"network": {"name": "unet"}, "mask": {"acceleration": 4}, "size": 128},
}


def counted(site, task):
    """Usable slices of the training scans by preflight, and number of slices in the sampler."""
    known = read_site(site, task, read_datalist(site), lambda *told: None)
    assert not known.bad
    scans = [scan for scan in known.scans if scan.split == "train"]
    return sum(scan.usable for scan in scans), task.sampler(task.load(site, ("train",))).n_slices


@pytest.mark.parametrize("values", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("spike", [0, 3000, 6000, 12000])
def test_usable_slices_of_preflight_are_those_that_are_trained_on(site, values, spike):
    """Also of a scan with a spike, which is the maximum in training, and with slices that fade out."""
    first = read_datalist(site)["volumes"][0]
    volume = nib.load(site / first["image"])
    voxels = np.asarray(volume.dataobj) * np.linspace(1, 0.01, volume.shape[2])
    voxels[20, 20, 2] += spike
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), volume.affine), site / first["image"])
    usable, trained = counted(site, build_task(values))
    assert usable == trained > 0
