"""A DICOM series of thick slices in, a model of a federation of two rounds, a series of cubic voxels out."""

import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread

from dicom_files import Series, write_classic
from fedmr.checkpoints.model_file import load_model
from fedmr.data.readers import Scan, dicom
from fedmr.inference.infer import infer
from fedmr.inference.resolver import Options
from fedmr.runs.run import Run
from simulator import render_tiny_job, simulate, write_hospitals

pytestmark = pytest.mark.e2e


def test_thick_slices_become_cubic_voxels_by_a_federated_model(tmp_path):
    data = write_hospitals(tmp_path / "data")
    job = render_tiny_job(tmp_path / "job", rounds=2, job="mscan_through_plane")
    done = simulate(job, tmp_path / "run", data, sites=4, threads=4)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = Run(tmp_path / "run")
    assert [len(made["sites"]) for made in run.rounds] == [4, 4]
    figures = run.figures()
    assert set(figures["mean"]) >= {"zero_filled", "interpolated", "model"}
    assert load_model(tmp_path / "run").card["factors"] == [2, 8]

    source = Series(shape=(40, 36, 8), spacing=(1.2, 1.2, 4.8), tags={"SliceThickness": 4.4})
    (tmp_path / "thick").mkdir()
    write_classic(tmp_path / "thick", source)
    outcome = infer(tmp_path / "run", tmp_path / "thick", tmp_path / "fine", options=Options(isotropic=1.2))
    assert outcome.written == [tmp_path / "fine"]
    assert not any("is assumed" in note for note in outcome.notes), "the header says how thick the slices are"
    files = sorted((tmp_path / "fine").iterdir())
    dataset = dcmread(files[0])
    assert len(files) == 32
    assert [float(value) for value in dataset.PixelSpacing] == pytest.approx([1.2, 1.2])
    assert float(dataset.SliceThickness) == pytest.approx(1.2)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "fine")))
    assert reader.Execute().GetSpacing() == pytest.approx((1.2, 1.2, 1.2), rel=1e-4)
    before, after = (dicom.read(Scan(tuple(sorted((tmp_path / name).iterdir())), "", "")) for name in ("thick", "fine"))
    middle = [image.affine @ [*((np.array(image.voxels.shape) - 1) / 2), 1] for image in (before, after)]
    assert np.allclose(middle[0], middle[1], atol=0.012), "eight slices of 4.8 mm are 32 voxels of 1.2 mm"
