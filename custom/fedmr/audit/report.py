"""Show the result of `fedmr audit`: a table, the figures as JSON, and a picture of the recovered patches."""

import json
from itertools import groupby
from pathlib import Path

from rich.table import Table

from fedmr.audit.leakage import RECOGNISABLE_PSNR, RECOGNISABLE_SSIM, Audit, Row

NOTES = (
    f"recognisable: PSNR of at least {RECOGNISABLE_PSNR:g} dB and SSIM of at least {RECOGNISABLE_SSIM:g}. The "
    "smoothing of the hostile server's attack is chosen to its best, which a real attacker has to guess.",
    "With homomorphic encryption the server has no input for these attacks; whoever holds the sites' key sees the mean "
    "over the sites.",
    "That an attack fails here does not show that another would fail.",
)
_COLUMNS = 5


def table(audit: Audit) -> Table:
    """Return the rows of the inversion."""
    view = Table(title="recovered low-resolution patch against the private one", caption="\n".join(NOTES))
    for name in ("protection", "PSNR (dB)", "SSIM", "recognisable"):
        view.add_column(name, justify="right" if name in ("PSNR (dB)", "SSIM") else "left")
    for (attacker, sent), rows in groupby(audit.rows, lambda row: (row.attacker, row.sent)):
        view.add_section()
        view.add_row(f"[bold]{attacker} sees {sent}[/]")
        for row in rows:
            verdict = "[red]yes[/]" if row.recognisable else "no"
            view.add_row(f"  {row.protection}", f"{row.psnr:.1f}", f"{row.ssim:.2f}", verdict)
    return view


def membership_line(audit: Audit) -> str:
    """Return the membership test in words."""
    m = audit.membership
    return (
        f"membership, {m['members']:.0f} volumes trained on against {m['others']:.0f} others, AUC (0.5 is guessing): "
        f"by loss {m['loss_patches']:.2f} for patches, {m['loss_volumes']:.2f} for volumes; by loss relative to "
        f"interpolation's {m['relative_patches']:.2f} and {m['relative_volumes']:.2f}"
    )


def write(audit: Audit, out: Path) -> list[Path]:
    """OUT/audit.json, audit.md and audit.png."""
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"audit.{ending}" for ending in ("json", "md", "png")]
    figures = {"inversion": [row.figures() for row in audit.rows], "membership": audit.membership}
    files[0].write_text(json.dumps(figures, indent=1) + "\n")
    lines = ["| attacker | sees | protection | PSNR (dB) | SSIM | recognisable |", "|---|---|---|---|---|---|"]
    for row in audit.rows:
        texts = row.attacker, row.sent, row.protection, f"{row.psnr:.1f}", f"{row.ssim:.2f}"
        lines.append(f"| {' | '.join(texts)} | {'**yes**' if row.recognisable else 'no'} |")
    files[1].write_text("\n".join(["# audit", "", *lines, "", *NOTES, "", f"{membership_line(audit)}.", ""]))
    draw(audit.rows, files[2])
    return files


def draw(rows: list[Row], path: Path) -> None:
    """Private and recovered patch of every row, side by side."""
    from matplotlib.figure import Figure

    height = -(-len(rows) // _COLUMNS)
    figure = Figure(figsize=(3.2 * _COLUMNS, 2.2 * height), layout="constrained")
    axes = figure.subplots(height, 2 * _COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for number, row in enumerate(rows):
        line, column = divmod(number, _COLUMNS)
        top = float(row.private.max())
        for offset, image in enumerate((row.private, row.recovered)):
            axes[line, 2 * column + offset].imshow(
                image.numpy(), cmap="gray", vmin=0, vmax=top, interpolation="nearest"
            )
        title = f"{row.attacker}\n{row.sent}\n{row.protection}".rstrip()
        axes[line, 2 * column].set_title(title, fontsize=5.5, loc="left")
        axes[line, 2 * column + 1].set_title(f"{row.psnr:.1f} dB, {row.ssim:.2f}", fontsize=6, loc="right")
    figure.savefig(path, dpi=110)
