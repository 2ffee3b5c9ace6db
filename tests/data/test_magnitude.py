"""Names and voxels of what is no magnitude image of anatomy, in every tool's way of writing, and of scans that are."""

import numpy as np
import pytest

from fedmr.data.magnitude import (
    DERIVED,
    LOCALIZER,
    MAP,
    MASK,
    PART,
    PHASE,
    PROJECTION,
    SCREEN,
    content_kind,
    image_type_kind,
    named_kind,
)
from phantoms import phantom

NAMES = {
    MASK: (
        *("brain_mask", "lesionmask", "T1_brain_mask", "ground_truth", "segm", "Segmentierung", "Maske", "annot", "gt"),
        *("contours", "aparc+aseg", "lh.ribbon", "T1_GM", "GM", "c1T1", "mwp1sub", "rc1T1", "fast_pveseg", "prob"),
        "desc-brain_mask",
    ),
    MAP: (
        *("MTR", "sub-1_MTR", "R2star", "R2s", "FA", "FA_map", "dti_MD", "DTI_FA_color", "ColFA", "qT1", "T2_quant"),
        *("quantitative_T1", "UNIT1", "mp2rage_UNI-DEN", "B0_map", "SNRmap", "S0map", "Ktrans", "PDFF", "fat_fraction"),
        *(
            "bias_field",
            "jacobian",
            "zstat1",
            "cope1",
            "spmT_0001",
            "con_0001",
            "eigenvector",
            "dADC_map",
            "Average DC",
        ),
        *("exponential ADC", "Apparent Diffusion Coefficient (mm2/s)", "T2*_map", "field_map", "stddev"),
    ),
    PHASE: ("Phase", "SWI_Phase", "Pha_Images", "GRE_ph", "part-phase_T2starw"),
    PART: ("part-real_T1w", "T2_real", "scan_imaginary"),
    PROJECTION: ("MinIP", "mIP_Images(SW)", "SWI_MNIP", "tMIP", "MIP_TOF"),
    LOCALIZER: ("3-plane", "AAHead_Scout", "Smartbrain", "ASSET calibration", "ref_scan", "coil survey"),
    DERIVED: ("T1_subtraction", "subtracted"),
    SCREEN: ("Screenshot", "Screen Save", "secondary_capture"),
}
SCANS = (
    *("T1_brain", "T1_masked", "p2_T1", "Md_T1", "FA25_T1", "maskara_T1", "Bias_T1", "c1_T1", "sub-01", "mprage_inv1"),
    *("Roadmapper_T2", "real_madrid_T1", "GM_T1", "hippocampus_L", "T1_late_phase", "ep2d_tracew"),
)


@pytest.mark.parametrize(("kind", "names"), NAMES.items())
def test_a_name_tells_what_is_no_scan(kind, names):
    assert {name: named_kind(name) for name in names} == dict.fromkeys(names, kind)


def test_the_name_of_a_scan_or_person_is_no_kind():
    assert [(name, kind) for name in SCANS if (kind := named_kind(name))] == []


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["M", "ND", "R2_STAR MAP"], MAP),
        (["t1_map"], MAP),
        (["MIN_IP"], PROJECTION),
        (["NONE", "SUBTRACT"], DERIVED),
        (["SCREEN_SAVE"], SCREEN),
        (["M", "CSA MPR"], "reformatted image"),
        (["VELOCITY"], PHASE),
        (["M", "ND", "NORM", "DIS2D"], ""),
    ],
)
def test_image_type_tells_it_in_each_vendors_words(values, kind):
    assert image_type_kind(values) == kind


SCAN = phantom(3, (48, 45, 5)).astype(np.float32)
CONTENTS = {
    "binary": (SCAN > 300, True),
    "binary, as 0 and 255": (255 * (SCAN > 300), True),
    "few levels": (SCAN // 100, True),
    "parcellation with large numbers": (1000 + 35 * (SCAN // 150), True),
    "probability": (np.clip(SCAN / 200, 0, 1), True),
    "sparse": (np.where(np.arange(SCAN.size).reshape(SCAN.shape) % 499, 0, SCAN), True),
    "phase": (np.random.default_rng(0).integers(0, 4096, SCAN.shape), True),
    "a scan": (SCAN, False),
    "a scan in 8 bits": ((SCAN / SCAN.max() * 255).astype(np.uint8), False),
    "a scan from 0 to 1": (SCAN / SCAN.max(), False),
    "a scan without its background": (np.where(SCAN > 150, SCAN, 0), False),
}


@pytest.mark.parametrize(("voxels", "found"), CONTENTS.values(), ids=CONTENTS)
def test_voxels_tell_it_where_names_do_not(voxels, found):
    assert bool(content_kind(np.asarray(voxels))) is found
