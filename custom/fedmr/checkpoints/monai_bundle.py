"""A MONAI bundle of a model: weights, TorchScript, contract; inference, training and test run without FedMR.

https://docs.monai.io/en/stable/mb_specification.html
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fedmr
from fedmr import __version__
from fedmr.checkpoints.bundle_training import evaluation, training
from fedmr.checkpoints.card import INTENDED_USE, Card, describe
from fedmr.checkpoints.model_file import Model, save_model
from fedmr.physics.degradation import pair, scale_text
from fedmr.runs.figures import METHODS
from fedmr.utils.files import replace_folder

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
_README = """# MR super-resolution x{scale}

Magnifies every slice of an MR volume by {scale}: a scan with 1/{scale} of the matrix becomes one with the full matrix.
It was trained on {degradation} images and is right for those only. **Research only. Not a medical device; not for
diagnosis.**

## Run

In this folder, with MONAI and the packages of `required_packages_version` in `configs/metadata.json`:

```bash
python -m monai.bundle run --config_file configs/inference.json --input scan.nii.gz
```

The result is `scan_sr.nii.gz` in `--output_dir` (default `.`), turned to right-anterior-superior axes, in the scan's
intensities, with the affine of the finer grid. `--input` may be a folder of NIfTI files.

- The axis across the slices is the one with the largest voxel size (the last of equals, in right-anterior-superior
  order). Where the slices are thinner than the voxels in them, name it: `--slice_axis 2` for axial slices, 1 for
  coronal, 0 for sagittal.
- Low-resolution voxel p lies at high-resolution position {position} along both axes of a slice.
- The input is a magnitude image. Negative voxels are read as 0.
- `models/model.ts` takes slices (N, 1, h, w), float32, normalised as below, and gives (N, 1, {rows}h, {columns}w).
- `models/model.pt` is the same model for `fedmr infer` and `fedmr evaluate`.

## Train and test

`dataset_dir` is a folder with high-resolution NIfTI scans and a `datalist.json` that gives each one's split, as `fedmr
prepare` makes it:

```bash
python -m monai.bundle run --config_file configs/train.json --dataset_dir SITE
python -m monai.bundle run --config_file "['configs/train.json','configs/evaluate.json']" --dataset_dir SITE
```

Training starts from the bundle's weights and writes `models/trained.ts`; `--model models/trained.ts` tests it, and
`--network_def#f models/trained.ts` applies it. `evaluate.json` prints the mean PSNR of the test volumes. In a
federation MONAI's `MonaiAlgo` runs the same two files at every site, from the site's own copy of this folder.

## Card

{card}
"""
_PACKAGE = Path(fedmr.__file__).parent
# parts of FedMR that need nothing but torch, numpy and MONAI
_SCRIPTS = {
    "transforms.py": Path(__file__).with_name("bundle_transforms.py"),
    "degradation.py": _PACKAGE / "physics" / "degradation.py",
    "losses.py": _PACKAGE / "losses.py",
}
_LICENCE = """configs/, scripts/ and docs/: Apache License, Version 2.0, https://www.apache.org/licenses/LICENSE-2.0

models/: {licence}
"""
_LOGGING = """[loggers]
keys=root

[handlers]
keys=console

[formatters]
keys=line

[logger_root]
level=INFO
handlers=console

[handler_console]
class=StreamHandler
level=INFO
formatter=line
args=(sys.stdout,)

[formatter_line]
format=%(asctime)s %(levelname)s %(name)s: %(message)s
"""


def write_bundle(folder: Path, model: Model, scripted: bytes) -> None:
    """Write a bundle under a passing name and rename it, in place of a bundle that may be there.

    Args:
        folder: the bundle.
        model: weights and card.
        scripted: the network as TorchScript, (N, 1, h, w) to (N, 1, scale*h, scale*w).
    """
    with replace_folder(folder) as passing:
        _fill(passing, model, scripted)


def is_bundle(folder: Path) -> bool:
    """Whether a folder is a MONAI bundle, so that `--force` never takes away another."""
    return (folder / "configs" / "metadata.json").is_file()


def _fill(folder: Path, model: Model, scripted: bytes) -> None:
    card = model.card
    texts = {
        "configs/metadata.json": json.dumps(metadata(card), indent=1) + "\n",
        "configs/inference.json": json.dumps(inference(card), indent=1) + "\n",
        "configs/train.json": json.dumps(training(card), indent=1) + "\n",
        "configs/evaluate.json": json.dumps(evaluation(), indent=1) + "\n",
        "configs/logging.conf": _LOGGING,
        "scripts/__init__.py": "",
        **{f"scripts/{name}": path.read_text() for name, path in _SCRIPTS.items()},
        "docs/README.md": _readme(card),
        "docs/card.json": json.dumps(card, indent=1) + "\n",
        "LICENSE": _LICENCE.format(licence=card["licence"]),
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    save_model(folder / "models" / "model.pt", model)
    (folder / "models" / "model.ts").write_bytes(scripted)


def _readme(card: Card) -> str:
    positions = [f"{s}*p" if card["grid"] == "pixel0" else f"{s}*p + {(s - 1) / 2:g}" for s in pair(card["scale"])]
    position = " along rows, ".join(dict.fromkeys(positions)) + (" along columns" if len({*positions}) > 1 else "")
    rows, columns = pair(card["scale"])
    scale = scale_text(card["scale"])
    kind = {"truncation": "k-space-truncated", "bicubic": "bicubically reduced"}[card["degradation"]]
    return _README.format(
        scale=scale, rows=rows, columns=columns, degradation=kind, position=position, card=describe(card)
    )


def metadata(card: Card) -> dict[str, Any]:
    """`configs/metadata.json`: what goes in and out, for whom, trained on what.

    No text of a card stands at the start of an entry: MONAI executes entries that start with "$".
    """
    slices = {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        "num_channels": 1,
        "spatial_shape": ["*", "*"],
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": False,
        "channel_def": {"0": "intensity"},
    }
    scale = scale_text(card["scale"])
    scores = {f"{m}_{k}": float(v) for m in METHODS for k, v in card["metrics"].get(m, {}).items()}
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by FedMR {__version__}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {name: version(name) for name in ("nibabel", "pytorch-ignite", "fire")},
        "name": f"MR super-resolution x{scale}",
        "task": f"Super-resolution x{scale} of MR volumes in the slice plane",
        "description": f"Magnifies slices {scale} times; trained on images made by {card['degradation']}",
        "authors": "the training sites, with FedMR",
        "copyright": f"Licence of the weights: {card['licence']}",
        "data_source": "MR scans of the training sites, not published with the model",
        "data_type": "nibabel",
        "image_classes": "one channel: " + card["normalisation"]["text"],
        "pred_classes": "one channel: magnitude on the same intensity scale",
        "eval_metrics": scores,
        "intended_use": INTENDED_USE.format("super-resolution"),
        "network_data_format": {"inputs": {"image": slices}, "outputs": {"pred": slices}},
    }


def inference(card: Card) -> dict[str, Any]:
    """`configs/inference.json`: MONAI's own transforms, inferer and evaluator, and two of `bundle_transforms`."""
    return {
        "bundle_root": ".",
        "dataset_dir": ".",
        "input": "@dataset_dir",
        "output_dir": ".",
        "slice_axis": None,
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "torch.jit.load",
            "f": "$@bundle_root + '/models/model.ts'",
            "map_location": "@device",
        },
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(card)},
        "dataset": {
            "_target_": "Dataset",
            "data": {"_target_": "scripts.transforms.scans", "path": "@input"},
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {"_target_": "SliceInferer", "roi_size": [-1, -1], "spatial_dim": 2, "sw_batch_size": 4},
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing(card)},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network_def",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def _preprocessing(card: Card) -> list[dict[str, Any]]:
    percentile = card["normalisation"]["percentile"]
    return [
        {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True, "reader": "NibabelReader"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
        {"_target_": "ThresholdIntensityd", "keys": "image", "threshold": 0.0},
        {"_target_": "scripts.transforms.Normalise", "percentile": percentile, "slice_axis": "@slice_axis"},
    ]


def _postprocessing(card: Card) -> list[dict[str, Any]]:
    place = {"output_dir": "@output_dir", "output_postfix": "sr", "output_ext": ".nii.gz"}
    return [
        {"_target_": "scripts.transforms.Restore", "scale": card["scale"], "grid": card["grid"]},
        {"_target_": "Orientationd", "keys": "pred", "axcodes": "RAS", "labels": None},
        {"_target_": "SaveImaged", "keys": "pred", "resample": False, "separate_folder": False, **place},
    ]
