"""Sixteen-bit arithmetic: whether a device computes in bfloat16, and when training does."""

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def has_bfloat16(device: torch.device) -> bool:
    """Return whether 16-bit convolutions are faster than 32-bit ones here, and not emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def training_autocast(device: torch.device, precision: Precision = "auto") -> torch.autocast:
    """Return the context of a forward pass in training.

    Args:
        device: of the network.
        precision: "float32"; "bfloat16" wherever the device computes in it, else float32, so that one job suits sites
            of different age; "auto" is bfloat16 on a GPU and float32 on a CPU.
    """
    wanted = device.type == "cuda" if precision == "auto" else precision == "bfloat16" and has_bfloat16(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)
