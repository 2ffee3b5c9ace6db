"""Training and test of an exported MONAI bundle, on the high-resolution scans of a site's own disk.

They are MONAI's own trainer, evaluator, loaders and handlers; `bundle_transforms` has what MONAI lacks.
"""

from typing import Any

from fedmr.checkpoints.bundle_validation import CASES, pairs, validation
from fedmr.checkpoints.card import Card


def training(card: Card) -> dict[str, Any]:
    """Return `configs/train.json`: trains the bundle's network further, or as one site of a federation."""
    task = card["task"]
    losses = task["loss"].values()
    if not all(isinstance(value, (int, float)) for value in losses):
        raise ValueError("the task has a loss of its own class, which is no part of a bundle; export to pt or onnx")
    return {
        "bundle_root": ".",
        "dataset_dir": ".",
        "model": "$@bundle_root + '/models/model.ts'",
        "slice_axis": None,
        "max_epochs": 10,
        "val_interval": 1,
        "learning_rate": task["learning_rate"],
        "batch_size": task["batch_size"],
        "patches_per_volume": 64,
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": "torch.jit.load", "f": "@model", "map_location": "@device"},
        "network": {"_target_": "scripts.transforms.trainable", "network": "@network_def"},
        "loss": {"_target_": "scripts.losses.WeightedSum", "weights": dict(task["loss"])},
        "optimizer": {"_target_": "torch.optim.Adam", "params": "$@network.parameters()", "lr": "@learning_rate"},
        "degrade": {"_target_": "scripts.degradation.degrade", "_mode_": "callable"},
        "train": _train(card),
        "validate": validation(card),
        "initialize": ["$monai.utils.set_determinism(seed=0)"],
        "run": ["$@train#trainer.run()", "$torch.jit.save(@network, @bundle_root + '/models/trained.ts')"],
    }


def evaluation() -> dict[str, Any]:
    """Return `configs/evaluate.json`, which is laid over `configs/train.json`: the test volumes, no training."""
    return {
        "validate#dataset#data": {**CASES, "split": "test"},
        "run": ["$@validate#evaluator.run()"],
    }


def _train(card: Card) -> dict[str, Any]:
    scale, size = card["scale"], card["task"]["patch_size"]
    cut = {"_target_": "scripts.transforms.RandAlignedPatch", "scale": scale, "grid": card["grid"], "size": size}
    find = {"_target_": "scripts.transforms.FindPatches", "scale": scale, "size": size}
    check = {
        "_target_": "ValidationHandler",
        "validator": "@validate#evaluator",
        "epoch_level": True,
        "interval": "@val_interval",
    }
    return {
        "preprocessing": {"_target_": "Compose", "transforms": [*pairs(card), find, cut]},
        "dataset": {
            "_target_": "CacheDataset",
            "data": {**CASES, "split": "train"},
            "transform": "@train#preprocessing",
            "progress": False,
        },
        "sampler": {
            "_target_": "torch.utils.data.RandomSampler",
            "data_source": "@train#dataset",
            "replacement": True,
            "num_samples": "$@patches_per_volume * len(@train#dataset)",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@train#dataset",
            "sampler": "@train#sampler",
            "batch_size": "@batch_size",
            "num_workers": 0,
        },
        "inferer": {"_target_": "SimpleInferer"},
        "handlers": [
            check,
            {"_target_": "StatsHandler", "output_transform": "$monai.handlers.from_engine(['loss'], first=True)"},
        ],
        "trainer": {
            "_target_": "SupervisedTrainer",
            "max_epochs": "@max_epochs",
            "device": "@device",
            "train_data_loader": "@train#dataloader",
            "network": "@network",
            "optimizer": "@optimizer",
            "loss_function": "@loss",
            "inferer": "@train#inferer",
            "train_handlers": "@train#handlers",
        },
    }
