"""Class paths: what is on the list, what the owner of a place adds, and that nothing else is even imported."""

import importlib
import sys

import pytest
from torch import nn

from fedmr.utils import class_path
from fedmr.utils.class_path import LISTED, VARIABLE, allow_folder, check_arguments, construct, locate, refusal, targets

TINY = "from torch import nn\nclass Tiny(nn.Conv2d):\n    def __init__(self): super().__init__(1, 1, 3, padding=1)\n"


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.setattr(class_path, "_folders", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv(VARIABLE, raising=False)


def write_module(folder, name, text=TINY):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(text)
    importlib.invalidate_caches()
    return folder


def test_every_class_of_the_list_is_there():
    for path in sorted(LISTED):
        module, _, name = path.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), name), type), path


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "monai.networks.nets.TorchVisionFCModel",
        "monai.bundle.ConfigParser",
        "torch.hub.load",
        "fedmr.cli.main.main",
        "monai.networks.nets.UNet.__init__.__globals__",
    ],
)
def test_what_is_not_on_the_list_is_refused_with_the_line_to_add(path):
    with pytest.raises(ValueError, match=r"not allowed here.*classes.*fedmr_policy.json.*FEDMR_CLASSES") as error:
        locate(path, nn.Module)
    assert path in str(error.value)


@pytest.mark.parametrize("path", ["", "UNet", "$import os", "a..b", "a.b()", "../x.Y", "a.b\nc.d", "monai."])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ValueError, match="no class path"):
        locate(path, nn.Module)


def test_a_refused_module_is_not_imported(tmp_path, monkeypatch):
    write_module(tmp_path, "hostile_module", f"open({str(tmp_path / 'ran')!r}, 'w')\n" + TINY)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="not allowed"):
        locate("hostile_module.Tiny", nn.Module)
    assert not (tmp_path / "ran").exists()


def test_the_variable_allows_one_class_and_no_other(tmp_path, monkeypatch):
    write_module(tmp_path, "by_variable", TINY + "class Other(Tiny): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(VARIABLE, "other.Net, by_variable.Tiny")
    assert isinstance(construct("by_variable.Tiny", nn.Module), nn.Conv2d)
    with pytest.raises(ValueError, match="not allowed"):
        locate("by_variable.Other", nn.Module)


def test_files_in_a_folder_that_the_user_names_are_allowed(tmp_path):
    allow_folder(write_module(tmp_path, "beside_the_job"))
    assert locate("beside_the_job.Tiny", nn.Module).__name__ == "Tiny"
    with pytest.raises(ValueError, match="not allowed"):
        locate("elsewhere.Tiny", nn.Module)


def test_code_that_flare_deployed_with_the_job_is_allowed_and_a_folder_of_another_name_is_not(tmp_path, monkeypatch):
    deployed = write_module(tmp_path / "job" / "app_site-1" / "custom", "of_the_job")
    other = write_module(tmp_path / "custom", "of_the_disk")
    monkeypatch.setattr(sys, "path", [*sys.path, str(deployed), str(other)])
    assert locate("of_the_job.Tiny", nn.Module).__name__ == "Tiny"
    with pytest.raises(ValueError, match="not allowed"):
        locate("of_the_disk.Tiny", nn.Module)


def test_a_folder_of_the_user_does_not_stand_in_for_an_installed_module(tmp_path):
    allow_folder(write_module(tmp_path, "json"))
    with pytest.raises(ValueError, match="cannot be imported"):
        locate("json.Tiny", nn.Module)


def test_the_policy_of_a_flare_process_allows_its_classes_and_elsewhere_a_file_of_that_name_does_nothing(
    tmp_path, monkeypatch
):
    write_module(tmp_path, "by_policy")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "fedmr_policy.json").write_text('{"classes": ["by_policy.Tiny"]}')
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.startswith("nvflare.private.fed.app.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ValueError, match="not allowed"):
        locate("by_policy.Tiny", nn.Module)
    monkeypatch.setitem(sys.modules, "nvflare.private.fed.app.fl_conf", sys)
    assert locate("by_policy.Tiny", nn.Module).__name__ == "Tiny"


def test_a_class_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"torch\.optim\.Adam is no torch\.nn"):
        locate("torch.optim.Adam", nn.Module)


@pytest.mark.parametrize(
    "values",
    [
        {"act": "$__import__('os').system('true')"},
        {"norm": ["instance", {"a": "$1"}]},
        {"pretrained": True},
        {"pretrained_url": "x"},
        {"weights": "https://example.org/x.pt"},
        {"weights": "/etc/passwd"},
        {"weights": "..\\x"},
    ],
)
def test_arguments_that_do_more_than_compute_are_refused(values):
    with pytest.raises(ValueError, match=r"refused|leave it out"):
        check_arguments(values)


def test_usual_arguments_are_taken():
    check_arguments({"norm": ["group", {"num_groups": 2}], "act": "PRELU", "strides": (2, 2), "pretrained": False})


def test_all_targets_of_nested_settings_are_found():
    nested = {"network": {"_target_": "a.B", "args": [{"_target_": "c.D"}, {"x": ({"_target_": "e.F"},)}]}}
    assert list(targets(nested)) == ["a.B", "c.D", "e.F"]
    assert not refusal("a.B", ["a.B"])
    assert refusal("a.Bc", ["a.B"])
