"""Protocol and file names as scanners of five vendors and their operators write them."""

import pytest

from fedmr.data.contrasts import contrast_of

NAMES = {
    # Siemens
    "t1_mprage_sag_p2_iso": "T1w",
    "t1_tse_tra_KM": "T1ce",
    "t1_se_tra": "T1w",
    "t1_vibe_tra_dixon_post": "T1ce",
    "MPRAGE post GAD": "T1ce",
    "MP-RAGE_ADNI": "T1w",
    "t2_tse_tra_512": "T2w",
    "t2_blade_cor_fs": "T2w",
    "t2_tirm_tra_dark-fluid": "FLAIR",
    "t2_spc_da-fl_sag_p2_iso": "FLAIR",
    "t2_fl2d_tra_hemo": "T2starw",
    "t2_me2d_tra": "T2starw",
    "SWI_Images": "T2starw",
    "ep2d_diff_3scan_trace_p2": "DTI",
    "TOF_3D_multi-slab": "angio",
    "pd_tse_fs_sag": "PDw",
    "pd+t2_tse_tra": "unknown",
    "gre_field_mapping": "unknown",
    "T1_mp2rage_UNI_Images": "unknown",
    "T1 SE TRA +GD": "T1ce",
    # GE
    "Ax T1 FLAIR": "T1w",
    "Ax T2 FLAIR": "FLAIR",
    "AX T1 +C": "T1ce",
    "Ax T1 FLAIR C+": "T1ce",
    "SAG T1 CUBE": "T1w",
    "Sag 3D FSPGR BRAVO": "T1w",
    "SWAN": "T2starw",
    "Ax T2* GRE": "T2starw",
    "AX T2 PROPELLER": "T2w",
    "Ax T2 FRFSE": "T2w",
    "3D TOF MRA": "angio",
    "Ax DWI B1000": "DTI",
    "LAVA PRE": "T1w",
    "Cor PD Fat Sat": "PDw",
    "FIESTA-C": "unknown",
    # Philips
    "sT1W_3D_TFE": "T1w",
    "T1W_SE_GD": "T1ce",
    "T1W_IR_TSE": "T1w",
    "T2W_TSE": "T2w",
    "T2W_FFE": "T2starw",
    "3D_Brain_VIEW_FLAIR": "FLAIR",
    "PDW_TSE": "PDw",
    "DTI_32dir": "DTI",
    "SWIp": "T2starw",
    "e-THRIVE": "T1w",
    "eTHRIVE_post": "T1ce",
    "VenBOLD": "T2starw",
    "Survey": "unknown",
    # Canon and Hitachi
    "Ax FSE T2W": "T2w",
    "FLAIR Ax": "FLAIR",
    "SE T1W ax pre": "T1w",
    "SE T1W ax CE": "T1ce",
    "FSBB": "T2starw",
    "T1 RSSG without contrast": "T1w",
    # UIH
    "t1_gre_fsp_3d_sag": "T1w",
    "t2_fse_tra": "T2w",
    "t2_fse_flair_tra": "FLAIR",
    "t2_arms_fse_tra": "T2w",
    "tof_3d_tra": "angio",
    "epi_dwi_tra_b1000": "DTI",
    "t1_fse_tra+C": "T1ce",
    # operators, archives and persons
    "patient1_T2": "T2w",
    "patient1_PD": "PDw",
    "subject2_T1": "T1w",
    "T2 Map": "unknown",
    "T1map": "unknown",
    "T1 nativ": "T1w",
    "T1 ohne KM": "T1w",
    "T12 spine": "unknown",
    "BRATS_001_t1c": "T1ce",
    "IXI002-Guys-0828-T1": "T1w",
    "Gadsden": "unknown",
    "Kmart_Postma": "unknown",
    # more of each vendor, other languages, agents by name, and what is before or after an operation
    "resolve_3scan_trace_tra": "DTI",
    "t1_starvibe_tra_KM": "T1ce",
    "t2_space_dark-fluid_sag_p2_ns-t2prep": "FLAIR",
    "t1_tirm_tra_dark-fluid": "T1w",
    "AX 3D T1 BRAVO POST": "T1ce",
    "QSWAN": "T2starw",
    "SAG T1 FLAIR POST GAD": "T1ce",
    "WATER: AX T1 LAVA FLEX": "T1w",
    "T1W_mDIXON_TSE": "T1w",
    "dDWI": "DTI",
    "FFE_T2star": "T2starw",
    "PD_T2_TSE": "unknown",
    "BSI": "T2starw",
    "FSE T1W Gd": "T1ce",
    "T1W Quick3D+C": "T1ce",
    "DWI b=1000": "DTI",
    "t1_quick3d_tra_+c": "T1ce",
    "t2_mx3d_flair_sag": "FLAIR",
    "gre_fsp_3d_sag": "unknown",
    "epi_dti_tra": "DTI",
    "T1 sans Gd": "T1w",
    "T1 sin contraste": "T1w",
    "T1 con mdc": "T1ce",
    "unenhanced T1": "T1w",
    "T1 Magnevist": "T1ce",
    "T1(+)": "T1ce",
    "T1 +": "T1ce",
    "T1 post-op": "T1w",
    "post_op_T1_KM": "T1ce",
    "T1 pre and post contrast": "unknown",
    "MR T1 without and with contrast": "unknown",
    "Dr_Swan_T1": "unknown",
    "BraTS-GLI-00000-001-t1n": "T1w",
    "BraTS-GLI-00000-001-t2f": "FLAIR",
}


@pytest.mark.parametrize(("name", "contrast"), NAMES.items())
def test_a_protocol_name_gives_its_contrast(name, contrast):
    assert contrast_of(name) == contrast


def test_there_are_ninety_names_and_every_contrast_is_among_them():
    assert len(NAMES) >= 90
    assert set(NAMES.values()) == {"T1w", "T1ce", "T2w", "T2starw", "FLAIR", "PDw", "angio", "DTI", "unknown"}


@pytest.mark.parametrize(
    ("name", "contrast"), [("t1_se_tra", "T1ce"), ("t1 pre", "T1w"), ("t2_tse", "T2w"), ("FLAIR", "FLAIR")]
)
def test_an_agent_in_the_header_counts_unless_the_name_says_before_it(name, contrast):
    assert contrast_of(name, agent=True) == contrast
