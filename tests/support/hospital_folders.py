"""A hospital's folder in every layout that `fedmr prepare` reads."""

import dicom_files
import fastmri_files
from hospital_files import write, write_patients
from phantoms import phantom


def write_bids(source):
    write_patients(source, 3)
    return ["FLAIR", "T1w"] * 3


def write_plain(source):
    for n in range(3):
        write(source / f"patient {n}" / "t2_tse.nii.gz", phantom(n))
    return ["T2w"] * 3


def write_ixi(source):
    for n in range(3):
        write(source / f"IXI00{n}-Guys-0700-PD.nii.gz", phantom(n))
    return ["PDw"] * 3


def write_brats(source):
    for n in range(3):
        for contrast in ("t1ce", "flair", "seg"):
            name = f"BraTS20_Training_00{n}"
            write(source / name / f"{name}_{contrast}.nii.gz", phantom(10 * n + len(contrast)))
    return ["T1ce", "FLAIR"] * 3


def write_dicom(source):
    for n in range(3):
        for kind, description in enumerate(("t1_se_tra", "t2_tse_tra")):
            origin, tags = (n, kind, 0), {"PatientID": str(n), "SeriesDescription": description}
            dicom_files.write_classic(source / str(n) / str(kind), dicom_files.Series(origin=origin, tags=tags))
    return ["T1w", "T2w"] * 3


def write_fastmri(source):
    for n in range(3):
        kspace = fastmri_files.kspace_of(seed=n)
        attributes = {"patient_id": f"{n}", "acquisition": "AXT2"}
        fastmri_files.write(source / f"file{n}.h5", {"kspace": kspace}, **attributes)
    return ["T2w"] * 3
