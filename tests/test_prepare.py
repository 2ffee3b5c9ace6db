import pytest

from fedmr.data import DataError, load_volumes, read_datalist
from fedmr.prepare import prepare
from phantoms import write_site


@pytest.fixture
def source(tmp_path):
    folder = write_site(tmp_path / "hospital", "raw", seed=4, patients=4)
    rows = [f"a,{v['patient']},{v['split']},raw/{v['image']}" for v in read_datalist(folder)["volumes"]]
    (tmp_path / "split.csv").write_text("site,patient,split,path\n" + "\n".join(rows) + "\nb,x,train,none.nii\n")
    return tmp_path


def run(root, site="a"):
    return prepare(root / "hospital", site=site, out=root / "data", split_file=root / "split.csv")


def test_the_datalist_holds_what_training_needs_with_relative_paths(source, task):
    datalist = read_datalist(run(source).parent)
    assert datalist["share_images"] is False
    assert [v["split"] for v in datalist["volumes"]] == ["train", "train", "val", "test"]
    assert {v["contrast"] for v in datalist["volumes"]} == {"T1w"}
    assert all(v["image"].startswith("../") for v in datalist["volumes"])
    assert len(load_volumes(source / "data" / "a", task)) == 4


def edit(source, old, new):
    (source / "split.csv").write_text((source / "split.csv").read_text().replace(old, new))


@pytest.mark.parametrize(
    ("spoil", "site", "message"),
    [
        (lambda s: None, "c", "no row of site 'c'"),
        (lambda s: None, "b", "none.nii does not exist"),
        (lambda s: edit(s, "val", "valid"), "a", "line 4: split 'valid'"),
        (lambda s: edit(s, "patient", "subject"), "a", "no column patient"),
        (lambda s: (s / "split.csv").unlink(), "a", "split.csv does not exist"),
    ],
)
def test_what_is_wrong_is_named(source, spoil, site, message):
    spoil(source)
    with pytest.raises(DataError, match=message):
        run(source, site)
