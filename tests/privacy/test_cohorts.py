"""Statistics of two jobs whose cohorts are near each other."""

import pytest

from fedmr.privacy.cohorts import COHORTS_FILE, Cohorts
from fedmr.utils.errors import UnsafeError

LEAST = 5


def cohort(*patients, volumes=1):
    return {f"{patient}/{n}": str(patient) for patient in patients for n in range(volumes)}


def site(folder):
    return Cohorts(folder / COHORTS_FILE)


@pytest.mark.parametrize("more", range(1, LEAST))
@pytest.mark.parametrize("first", ["larger", "smaller"])
def test_a_cohort_that_differs_by_few_patients_from_an_earlier_one_is_refused(first, more, tmp_path):
    """6 minus 5 would give that patient's value."""
    cohorts = [cohort(*range(6 + more)), cohort(*range(6))]
    cohorts = cohorts if first == "larger" else cohorts[::-1]
    site(tmp_path).release({"all": cohorts[0]}, LEAST)
    with pytest.raises(UnsafeError, match=rf"differs by the scans of {more} patient"):
        site(tmp_path).release({"all": cohorts[1]}, LEAST)


def test_the_same_cohort_and_one_that_differs_by_enough_are_released(tmp_path):
    for size in (6, 6, 6 + LEAST, 6):
        site(tmp_path).release({"all": cohort(*range(size))}, LEAST)


def test_one_patient_exchanged_for_another_is_a_difference_of_two(tmp_path):
    site(tmp_path).release({"all": cohort(*range(6))}, LEAST)
    with pytest.raises(UnsafeError, match="of 2 patient"):
        site(tmp_path).release({"all": cohort(*range(1, 7))}, LEAST)


def test_a_new_scan_of_a_known_patient_is_a_difference_too(tmp_path):
    site(tmp_path).release({"all": cohort(*range(6))}, LEAST)
    with pytest.raises(UnsafeError, match="of 1 patient"):
        site(tmp_path).release({"all": cohort(*range(6)) | {"0/again": "0"}}, LEAST)


def test_the_union_of_a_jobs_data_sets_is_compared(tmp_path):
    site(tmp_path).release({"all": cohort(*range(13))}, LEAST)
    with pytest.raises(UnsafeError, match="'all data sets together' differs by the scans of 1 patient"):
        site(tmp_path).release({"a": cohort(*range(6)), "b": cohort(*range(6, 12))}, LEAST)


def test_a_cohort_too_small_to_leave_is_no_release(tmp_path):
    site(tmp_path).release({"all": cohort(*range(LEAST - 1))}, LEAST)
    site(tmp_path).release({"all": cohort(*range(LEAST))}, LEAST)


def test_the_record_holds_no_names_and_a_damaged_one_stops_all(tmp_path):
    site(tmp_path).release({"all": cohort("Jane_Doe", *range(6))}, LEAST)
    path = tmp_path / COHORTS_FILE
    assert "Jane" not in path.read_text()
    for damage in ("{", "3", "[3]"):
        path.write_text(damage)
        with pytest.raises(UnsafeError, match="cannot be read"):
            site(tmp_path).release({"all": cohort(*range(6))}, LEAST)


def test_a_site_without_a_minimum_keeps_no_record(tmp_path):
    site(tmp_path).release({"all": cohort(1)}, 1)
    assert not list(tmp_path.iterdir())
