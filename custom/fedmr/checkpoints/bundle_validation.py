"""Validation of an exported MONAI bundle, and the volumes that training and validation share."""

from typing import Any

from fedmr.checkpoints.card import Card

CASES = {"_target_": "scripts.transforms.cases", "folder": "@dataset_dir"}


def pairs(card: Card) -> list[dict[str, Any]]:
    """Steps from a file to the low resolution and its reference, without chance."""
    return [
        {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True, "reader": "NibabelReader"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
        {"_target_": "ThresholdIntensityd", "keys": "image", "threshold": 0.0},
        {
            "_target_": "scripts.transforms.Degrade",
            "degrade": "@degrade",
            "scale": card["scale"],
            "kind": card["degradation"],
            "percentile": card["normalisation"]["percentile"],
            "slice_axis": "@slice_axis",
        },
    ]


def validation(card: Card) -> dict[str, Any]:
    """Return the entry "validate" of `configs/train.json`: whole volumes, mean PSNR as the key metric."""
    return {
        "preprocessing": {"_target_": "Compose", "transforms": pairs(card)},
        "dataset": {
            "_target_": "CacheDataset",
            "data": {**CASES, "split": "val"},
            "transform": "@validate#preprocessing",
            "progress": False,
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@validate#dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {"_target_": "SliceInferer", "roi_size": [-1, -1], "spatial_dim": 2, "sw_batch_size": 4},
        "postprocessing": {"_target_": "scripts.transforms.CropToLabel"},
        "handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
        "key_metric": {
            "psnr": {
                "_target_": "IgniteMetricHandler",
                "metric_fn": {"_target_": "scripts.transforms.VolumePSNR"},
                "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
            }
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@validate#dataloader",
            "network": "@network",
            "inferer": "@validate#inferer",
            "postprocessing": "@validate#postprocessing",
            "key_val_metric": "@validate#key_metric",
            "val_handlers": "@validate#handlers",
        },
    }
