import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmr.data.splits import SPLITS, assign, parse_fractions, read_split_file
from fedmr.utils.errors import DataError

SHARES = (0.7, 0.1, 0.2)
patients = st.sets(st.text(min_size=1), min_size=3, max_size=30)


@given(patients, st.integers(0, 99))
def test_every_patient_gets_one_split_and_no_split_is_empty(people, seed):
    split = assign(people, SHARES, seed=seed, previous={})
    assert set(split) == people
    assert set(split.values()) == set(SPLITS)


@given(patients, patients)
def test_what_was_decided_stays_when_patients_are_added(people, others):
    first = assign(people, SHARES, seed=1, previous={})
    second = assign(people | others, SHARES, seed=1, previous=first)
    assert {patient: second[patient] for patient in people} == first


def test_without_a_memory_too_all_but_those_who_filled_a_gap_keep_their_split():
    people = [f"p{n}" for n in range(40)]
    first, second = (assign(people[:n], SHARES, seed=0, previous={}) for n in (30, 40))
    assert {p: second[p] for p in people[:30]} == first


def test_the_shares_are_met_in_the_long_run_and_the_seed_matters():
    people = [str(n) for n in range(5000)]
    split = list(assign(people, SHARES, seed=0, previous={}).values())
    assert [split.count(s) / 5000 for s in SPLITS] == pytest.approx(SHARES, abs=0.02)
    assert split != list(assign(people, SHARES, seed=1, previous={}).values())


@pytest.mark.parametrize("number", [0, 1, 2])
def test_fewer_patients_than_splits_are_refused(number):
    with pytest.raises(DataError, match=f"of {number} patient"):
        assign([str(n) for n in range(number)], SHARES, seed=0, previous={})


def test_fractions():
    assert parse_fractions("7/1/2") == pytest.approx(SHARES)
    for text in ("", "0.7/0.3", "0.8/0.2/0", "a/b/c", "nan/1/1", "1/1/inf", "-1/1/1"):
        with pytest.raises(DataError, match="three numbers above 0"):
            parse_fractions(text)


def test_a_split_file_gives_the_rows_of_its_site(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("\ufeffsite,patient,split,path\na,1,train,x.nii\nb,2,test,y.nii\n", encoding="utf-8")
    assert read_split_file(path, "b") == [{"site": "b", "patient": "2", "split": "test", "path": "y.nii"}]
    path.write_text("patient,split\n1,train\n")
    assert read_split_file(path, "any") == [{"patient": "1", "split": "train"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient,split\n1,valid\n", "line 2: split 'valid'"),
        ("subject,split\n1,val\n", "no column patient"),
        ("site,patient,split\nb,1,val\n", "no row of site 'a'"),
        (None, "does not exist"),
    ],
)
def test_what_is_wrong_with_a_split_file_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "s.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_split_file(tmp_path / "s.csv", "a")
