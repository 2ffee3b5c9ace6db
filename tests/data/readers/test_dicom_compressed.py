"""JPEG lossless and JPEG-LS are read by a decoder of the requirements, none of which is under the GPL."""

import importlib.metadata
import re
from pathlib import Path

import gdcm
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.pixels import get_decoder
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from dicom_files import Series, assert_shows_the_field, classic, read, save

ROOT = Path(__file__).parents[3]
SYNTAXES = {
    JPEGLossless: gdcm.TransferSyntax.JPEGLosslessProcess14,
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    JPEGLSLossless: gdcm.TransferSyntax.JPEGLSLossless,
    JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless,
}


def compress(path, syntax):
    """Store a file's pixels in another transfer syntax."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(SYNTAXES[syntax]))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_a_compressed_series_is_read_as_the_original(tmp_path, syntax):
    originals = [classic(Series(), number) for number in range(5)]
    for number, dataset in enumerate(originals):
        compress(save(dataset, tmp_path / f"{number}.dcm"), syntax)
        assert dcmread(tmp_path / f"{number}.dcm").file_meta.TransferSyntaxUID == syntax
    image = read(tmp_path)
    assert_shows_the_field(image)
    assert np.array_equal(image.voxels[:, :, 2].T, originals[2].pixel_array)
    assert "gdcm" in get_decoder(syntax).available_plugins


def test_no_requirement_is_under_the_gpl():
    names = [
        re.split(r"[=\[;<> ]", line)[0]
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line and line[0].isalpha()
    ]
    assert len(names) > 20
    for name in names:
        facts = importlib.metadata.metadata(name)
        licences = [facts.get("License-Expression", ""), facts.get("License", "")[:60]]
        licences += [text for text in facts.get_all("Classifier", []) if text.startswith("License")]
        assert not any(re.search(r"(?<!L)GPL|GNU General", text or "") for text in licences), name
