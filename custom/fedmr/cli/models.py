"""Commands for a trained model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fedmr.cli.checks import Force, check_free, check_input, check_model
from fedmr.cli.grouped import grouped
from fedmr.cli.progress import shown

if TYPE_CHECKING:
    from fedmr.tasks.base import Task

console = Console()


@dataclass(frozen=True)
class _Inference:
    """Options of `infer` that say how the network is applied."""

    plane: Annotated[str, typer.Option(help="axial, coronal or sagittal; the acquisition plane by default.")] = ""
    data_consistency: Annotated[
        bool,
        typer.Option(
            "--data-consistency",
            help="Put the scan's own k-space, or its thick slices, back: the result never contradicts it.",
        ),
    ] = False
    fast: Annotated[bool, typer.Option("--fast", help="16-bit arithmetic, where the hardware has it.")] = False
    tile: Annotated[int, typer.Option(help="Side of tiles in LR pixels; chosen by memory by default.")] = 0
    device: Annotated[str, typer.Option(help="cpu or cuda; the GPU by default, where there is one.")] = ""
    deidentify: Annotated[
        bool, typer.Option("--deidentify", help="Leave person, dates and places out of the result; pixels stay.")
    ] = False
    uncertainty: Annotated[
        bool,
        typer.Option("--uncertainty", help="Average over four flips, and write how far they differ, voxel by voxel."),
    ] = False
    isotropic: Annotated[
        float | None,
        typer.Option(
            metavar="MM",
            help="With a through-plane model: side of the result's voxels; 0, the default, for that of pixels.",
        ),
    ] = None
    slice_thickness: Annotated[
        float, typer.Option(metavar="MM", help="With a through-plane model: instead of what the scan's header says.")
    ] = 0
    slice_profile: Annotated[
        str, typer.Option(help="With a through-plane model: gaussian, box or sinc; as in its training by default.")
    ] = ""


@grouped
def infer(
    model: Annotated[
        Path,
        typer.Argument(
            help="Model of the package, e.g. mscan-x2, model file of FLARE, `fedmr train` or `fedmr export`, or a run."
        ),
    ],
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="NIfTI, DICOM series or raw k-space (HDF5), or a folder of them.")
    ],
    target: Annotated[
        Path,
        typer.Argument(metavar="OUTPUT", help="File, .nii or .nii.gz, for one scan; else a folder."),
    ],
    how: _Inference,
    layout: Annotated[str, typer.Option("--format", help="nifti or dicom, for a folder that holds both.")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Make results of an earlier run again.")] = False,
    job: Annotated[Path | None, typer.Option(help="Job of the model, if not beside it.")] = None,
) -> None:
    """Super-resolve scans in the plane of their slices; geometry, intensities and type are those of the input.

    A through-plane model makes volumes of cubic voxels of thick slices. A reconstruction model takes raw k-space with
    missing columns, as fastMRI HDF5, and writes NIfTI.
    Exit code 0: all scans were done; 3: some could not be used, each is named with the reason, and the others were; 1:
    none was.
    """
    check_model(model)
    check_input(source)
    from fedmr.cli.summary import show_results
    from fedmr.inference.infer import infer as infer_scans
    from fedmr.inference.resolver import Options

    chosen = {name: value for name, value in vars(how).items() if name != "fast"}
    options = Options(**chosen, exact=not how.fast)
    with shown(console) as tell:
        outcome = infer_scans(
            model, source, target, options=options, job=job, force=force, layout=layout, progress=tell
        )
    show_results(outcome, console)
    if outcome.problems:
        raise typer.Exit(3)


def export(
    model: Annotated[Path, typer.Argument(help="Model file of FLARE or of `fedmr train`, or a whole run.")],
    to: Annotated[str, typer.Option(help="pt, torchscript, onnx or bundle.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="What to write; by default the model's name, here.")
    ] = None,
    force: Force = False,
    licence: Annotated[str, typer.Option(help="Terms of the weights, for the card.")] = "",
    job: Annotated[Path | None, typer.Option(help="Job of the model, if not beside it.")] = None,
) -> None:
    """Write a model, with its card, for use elsewhere: model file, TorchScript, ONNX or MONAI bundle."""
    check_model(model)
    from fedmr.checkpoints.export import export as export_model

    console.print(f"wrote {export_model(model, to, out=out, force=force, job=job, licence=licence)}")


def decrypt(
    model: Annotated[Path, typer.Argument(help="Encrypted model file of FLARE's server, or a whole run of an HE job.")],
    context: Annotated[Path, typer.Option(help="The site's startup/client_context.tenseal.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model file to write.")],
    force: Force = False,
    job: Annotated[Path | None, typer.Option(help="Job of the model, if not beside it.")] = None,
) -> None:
    """Make a usable model of an encrypted one, at a site: only the sites have the key."""
    check_free(out, force=force)
    from fedmr.checkpoints.model_file import load_model, save_model

    save_model(out, load_model(model, job, context))
    console.print(f"wrote {out}", soft_wrap=True)


def card(
    model: Annotated[Path, typer.Argument(help="Model file of FLARE or of `fedmr train`, or a whole run.")],
    job: Annotated[Path | None, typer.Option(help="Job of the model, if not beside it.")] = None,
) -> None:
    """Show what a model is: network, training, figures, licence."""
    check_model(model)
    from fedmr.checkpoints.card import describe
    from fedmr.checkpoints.model_file import load_model

    console.print(describe(load_model(model, job).card), markup=False, highlight=False, soft_wrap=True)


def _made_for(task: "Task") -> str:
    """Return the purpose of a task with its scale or its factors."""
    from fedmr.physics.degradation import scale_text

    facts = task.facts
    if "factors" in facts:
        return f"{task.purpose} x{'-'.join(f'{factor:g}' for factor in facts['factors'])}"
    return f"{task.purpose} x{scale_text(facts.get('scale', 1))}"


def models() -> None:
    """List the models that come with FedMR; `fedmr card NAME` says all of one."""
    from fedmr.checkpoints.card import gain_of
    from fedmr.checkpoints.model_file import load_model
    from fedmr.checkpoints.stored import shipped_models
    from fedmr.nets import count_parameters

    view = Table("name", "made for", "weights", "sites", "test volumes", "gain (dB)", title="models of the package")
    for name, path in shipped_models().items():
        model = load_model(path)
        card, gain = model.card, gain_of(model.card)
        view.add_row(
            name,
            _made_for(model.task),
            f"{count_parameters(model.net):,}",
            str(card["training"].get("sites", "")),
            str(card["metrics"].get("n_volumes", "")),
            "" if gain is None else f"{gain:+.2f}",
        )
    console.print(view)
    console.print("`fedmr infer NAME INPUT OUTPUT` applies one; the gain is over zero-filling, in the mean.")


def audit(
    data: Annotated[Path, typer.Argument(help="Data root or one site's folder; the first site is attacked.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for audit.json, audit.md and audit.png, which shows patches.")
    ],
    job: Annotated[Path, typer.Option(help="Job whose site to play.")] = Path("jobs/mscan_fedavg"),
    model: Annotated[
        Path | None, typer.Option(help="Trained on these data; by default the site trains one epoch.")
    ] = None,
    iterations: Annotated[int, typer.Option(min=1, help="Of the curious server's attack.")] = 300,
    seed: Annotated[int, typer.Option(help="Which patches are attacked.")] = 0,
    force: Force = False,
) -> None:
    """Attack a site's updates: which patches a server could rebuild from them, and behind which filter no longer."""
    check_free(*(out / f"audit.{ending}" for ending in ("json", "md", "png")), force=force)
    from fedmr.audit.leakage import audit as attack
    from fedmr.audit.leakage import super_resolution_task
    from fedmr.audit.report import membership_line, table, write
    from fedmr.checkpoints.model_file import load_model
    from fedmr.data.datalist import site_folders
    from fedmr.flare.protections import protections
    from fedmr.nets import build

    task = super_resolution_task(job)
    net = load_model(model, job).net if model else None
    with Progress(*Progress.get_default_columns(), console=console, transient=True) as bar:
        line = bar.add_task("")
        result = attack(
            site_folders(data)[0],
            task,
            protections=protections({n: p.numel() for n, p in build(**task.network).named_parameters()}),
            net=net,
            iterations=iterations,
            seed=seed,
            progress=lambda what, done, total: bar.update(line, description=what, completed=done, total=total),
        )
    console.print(table(result))
    console.print(membership_line(result), soft_wrap=True)
    for path in write(result, out):
        console.print(f"wrote {path}", soft_wrap=True)
