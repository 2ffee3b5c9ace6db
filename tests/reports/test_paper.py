"""Figures and tables for a paper, of a run and of a study; the command that writes them."""

import csv
import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from fedmr.cli.main import app
from fedmr.reports.paper import Look, latex, panels, save_figure
from runs import write_run

STUDY = "cell,algorithm,seed,method,model_of,site,seen,volume,psnr,ssim,nmse,psnr_foreground,sharpness\n"


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "w")


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    lines = []
    for seed in (0, 1):
        for volume, zero in (("a.nii", 30.0), ("b.nii", 32.0)):
            rest = f"site-1,True,{volume}"
            lines.append(f"A__{seed},A,{seed},zero_filled,,{rest},{zero},0.9,0.01,28,0.8")
            for arm, gain in zip("ABCDEFG", range(1, 8), strict=True):
                lines.append(
                    f"{arm}__{seed},{arm},{seed},global,site-1,{rest},{zero + gain + seed / 10},0.9,0.01,28,0.8"
                )
    (folder / "results.csv").write_text(STUDY + "\n".join(lines) + "\n")
    return folder


def figures(*words):
    return CliRunner().invoke(app, ["figures", *map(str, words)])


def rows(path):
    with path.open(newline="") as handle:
        return list(csv.reader(handle))


def test_a_run_becomes_tables_and_figures(run):
    result = figures(run, "--format", "png", "--dpi", 60)
    assert result.exit_code == 0, result.exception
    names = {path.name for path in (run / "figures").iterdir()}
    assert names == {"table.csv", "table.tex", "methods.png", "curves.png", "details.png"}


@pytest.mark.parametrize(("kind", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_figure_is_of_the_kind_that_is_asked_for_and_the_same_again(kind, start, tmp_path):
    files = []
    for name in ("a", "b"):
        figure, (axis,) = panels(1, 2, 1)
        axis.plot([1, 2])
        files.append(save_figure(figure, tmp_path / name, Look(kind, 60)).read_bytes())
    assert files[0].startswith(start)
    assert files[0] == files[1]


def test_the_table_of_a_run_states_n_and_spread_and_only_the_methods_that_are_asked_for(run, tmp_path):
    assert figures(run, "--out", tmp_path / "f", "--methods", "zero-filled,MSCAN").exit_code == 0
    head, *body = rows(tmp_path / "f" / "table.csv")
    assert head[:3] == ["site", "n", "zero-filled: PSNR (dB)"]
    assert not any("bicubic" in name for name in head)
    assert body[0][:3] == ["site-1", "2", "30.00"]
    assert body[-1][:3] == ["mean ± SD of sites", "6", "31.00 ± 1.00"]
    assert r"mean $\pm$ SD of sites & 6 & 31.00 $\pm$ 1.00" in (tmp_path / "f" / "table.tex").read_text()


def test_the_arms_of_a_study_stand_in_groups_with_the_baseline_in_each(study, tmp_path):
    result = figures(study, "--format", "png", "--dpi", 100, "--out", tmp_path / "f")
    assert result.exit_code == 0, result.exception
    head, *body = rows(tmp_path / "f" / "table.csv")
    assert head[-1] == "difference from A (dB)"
    assert [row[0] for row in body] == ["zero-filled", *"ABCDEFG"]
    assert body[2][1:4] == ["2", "2", "33.05 ± 0.07"]
    assert body[2][-1] == "+1.00 ± 0.00 (2 of 2)"
    with Image.open(tmp_path / "f" / "psnr.png") as picture:
        assert picture.width == 716
    assert figures(study, "--methods", "A,C", "--out", tmp_path / "g").exit_code == 0
    assert [row[0] for row in rows(tmp_path / "g" / "table.csv")[1:]] == ["A", "C"]


def test_a_contrast_is_that_of_the_datalists(study, run, tmp_path):
    for site, contrasts in {"site-1": ("T2w", "T1w"), "site-2": ("T2w", "T2w")}.items():
        volumes = [
            {"image": name, "patient": name, "contrast": contrast, "split": "test"}
            for name, contrast in zip(("a.nii", "b.nii"), contrasts, strict=True)
        ]
        (tmp_path / "data" / site).mkdir(parents=True)
        (tmp_path / "data" / site / "datalist.json").write_text(json.dumps({"site": site, "volumes": volumes}))
    common = ("--contrast", "T2w", "--data", tmp_path / "data")
    assert figures(study, *common, "--out", tmp_path / "f").exit_code == 0
    assert rows(tmp_path / "f" / "table.csv")[2][1:4] == ["1", "2", "31.05 ± 0.07"]
    assert figures(run, *common, "--out", tmp_path / "g").exit_code == 0
    assert [row[0] for row in rows(tmp_path / "g" / "table.csv")[1:-1]] == ["site-2"]
    for words in (("--contrast", "T2w"), ("--contrast", "PDw", "--data", tmp_path / "data")):
        assert isinstance(figures(study, *words, "--out", tmp_path / "h").exception, ValueError)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "EDSR"), "there is no method EDSR; there are zero-filled, bicubic, MSCAN"),
        (("--format", "gif"), "format is 'gif'; known are pdf, svg, png"),
        (("--dpi", "5"), "dpi is 5; give 50 to 1200"),
        (("--contrast", "T2w"), "name its data root by --data"),
    ],
)
def test_what_cannot_be_shown_is_said_with_the_remedy(run, words, message):
    assert message in str(figures(run, *words).exception)
    assert not (run / "figures").exists()


def test_figures_that_are_there_stay_without_force(run):
    (run / "figures").mkdir()
    (run / "figures" / "methods.pdf").write_text("mine")
    assert "--force" in str(figures(run).exception)
    assert (run / "figures" / "methods.pdf").read_text() == "mine"
    assert figures(run, "--force").exit_code == 0


def test_any_text_is_text_in_latex():
    assert latex("a_b & 50 % \\input{x} ~^$#") == (
        r"a\_b \& 50 \% \textbackslash{}input\{x\} \textasciitilde{}\textasciicircum{}\$\#"
    )
