"""Models for use without FedMR: TorchScript, ONNX and a MONAI bundle, and FLARE's saved model with a card."""

import copy
import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fedmr.checkpoints.model_file import Model, load_model, save_model
from fedmr.checkpoints.monai_bundle import is_bundle, write_bundle
from fedmr.utils.files import write_atomically

# What the file's name ends with where the user names none.
ENDINGS = {"pt": ".pt", "torchscript": ".ts", "onnx": ".onnx", "bundle": "_bundle"}
TOLERANCE = 1e-4  # largest difference from the network that an export may show, of intensities about [0, 1]
_SIZES = ((1, 1, 17, 33), (3, 1, 30, 21))  # odd, and not the size that is traced
_TRACED = (2, 1, 24, 20)


class ExportError(RuntimeError):
    """A model cannot be exported; the message says why."""


class Magnitude(nn.Module):
    """A network as `super_resolution.super_resolve` applies it: nothing below 0."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        """LR slices (N, 1, h, w), about [0, 1], to SR slices (N, 1, scale*h, scale*w), values >= 0."""
        return self.net(image).clamp_min(0)


def export(
    source: Path, to: str, *, out: Path | None = None, force: bool = False, job: Path | None = None, licence: str = ""
) -> Path:
    """Write a model in another format. What is written has been run and agrees with the network.

    Args:
        source: model file or run, as `model_file.load_model` takes it.
        to: "pt" (FedMR's model file with the card), "torchscript", "onnx" or "bundle".
        out: file or, for a bundle, folder; by default the source's name in the working directory.
        force: replace what is there.
        job: job folder, if a model file without a card lies elsewhere.
        licence: terms of the weights, for the card.

    Returns:
        what was written.

    Raises:
        FileExistsError: `out` is there, without `force`, or is a folder but not a bundle.
        ValueError: unknown format or unusable model.
        ExportError: a package is missing, the exported network disagrees, or it is none for super-resolution.
    """
    if to not in ENDINGS:
        raise ValueError(f"format is {to!r}; known are {', '.join(ENDINGS)}")
    name = source.resolve().name if source.is_dir() else source.stem
    target = out or Path(name + ENDINGS[to])
    _check_target(target, to, force)
    model = load_model(source, job)
    if to != "pt" and model.task.takes_kspace:
        raise ExportError(
            f"{source} is a {model.task.purpose} model, whose input is k-space, which {to} does not hold; only super-"
            "resolution models can be exported so. Give --to pt, and use the file with `fedmr infer`"
        )
    if licence:
        model = replace(model, card=model.card | {"licence": licence})
    if to == "pt":
        save_model(target, model)
    elif to == "bundle":
        write_bundle(target, model, to_torchscript(model))
    else:
        content = to_onnx(model) if to == "onnx" else to_torchscript(model)
        write_atomically(target, lambda handle: handle.write(content))
    return target


def _check_target(target: Path, to: str, force: bool) -> None:
    if target.is_dir() and not (to == "bundle" and is_bundle(target)):
        raise FileExistsError(f"{target} is a folder of something else; name another place by --out")
    if target.exists() and not force:
        raise FileExistsError(f"{target} exists; name another place by --out, or replace it by --force")
    target.parent.mkdir(parents=True, exist_ok=True)


def to_torchscript(model: Model) -> bytes:
    """TorchScript of `Magnitude` for any number and size of slices, with the card as its extra file `card.json`.

    Raises:
        ExportError: it disagrees with the network.
    """
    net, buffer = _deployed(model.net), io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # deprecated in favour of torch.export, whose files neither MONAI bundles nor viewers load
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        traced = torch.jit.trace(net, torch.zeros(_TRACED), check_trace=False)  # checked below, at other sizes
        torch.jit.save(traced, buffer, _extra_files={"card.json": json.dumps(model.card)})
        loaded = torch.jit.load(io.BytesIO(buffer.getvalue()))
        _check_agreement(net, loaded, "TorchScript")
    return buffer.getvalue()


def to_onnx(model: Model) -> bytes:
    """ONNX graph of `Magnitude`, dynamic in batch, height and width, with the card as metadata `fedmr_card`.

    Raises:
        ExportError: a package is missing, or onnxruntime's result disagrees with the network.
    """
    _require("onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    net = _deployed(model.net)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # else it lists operators of torchvision, which is absent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
        program = torch.onnx.export(
            net,
            (torch.zeros(_TRACED),),
            input_names=["image"],
            output_names=["pred"],
            dynamic_shapes={"image": {0: "batch", 2: "height", 3: "width"}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    proto.metadata_props.add(key="fedmr_card", value=json.dumps(model.card))
    content: bytes = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        _check_agreement(net, lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0]), "ONNX")
    return content


def _deployed(net: nn.Module) -> nn.Module:
    """`Magnitude` of a copy that needs no gradients, so that whoever loads it builds no graph."""
    return Magnitude(copy.deepcopy(net).cpu()).eval().requires_grad_(False)


def _require(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError:
            raise ExportError(
                f"the package {package} is missing; ONNX needs it: pip install {' '.join(packages)}"
            ) from None


def _check_agreement(net: nn.Module, exported: Callable[[Tensor], Tensor], kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for size in _SIZES:
        image = torch.rand(size, generator=generator)
        expected, result = net(image), exported(image)
        error = float((result - expected).abs().max()) if result.shape == expected.shape else float("inf")
        if not error <= TOLERANCE:
            raise ExportError(
                f"{kind} disagrees with the network by {error:g} on slices {size}, more than {TOLERANCE:g}, so nothing "
                "was written. The network does something that this format cannot express for every size"
            )
