"""How well the sites' latents are aligned by the models of a study that leaves out one site after another."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from fedmr.study.results import LATENTS
from fedmr.study.tables import NONE, Spread, markdown
from fedmr.study.targets import Targets
from fedmr.training.latents import SPLITS, Points, domain_accuracy, draw_latents, pair_accuracy

_NOTE = """\
Accuracy of a fresh classifier (logistic regression) on the latents of test slices, fitted with those of training
slices, which are of other patients where the split keeps them apart; lower is better aligned. By target: another site
or the target, mean over the other sites, chance 50 %%. Last column: which of the %d sites, chance %.0f %%. Mean over
runs, and standard deviation."""


@dataclass(frozen=True)
class Alignment:
    """The latents by a model that was trained without the target: of training and of test slices, (N, 4C) by site."""

    method: str
    target: str
    seed: str
    train: dict[str, Points]
    test: dict[str, Points]


def read_alignments(targets: Targets, folder: Path) -> list[Alignment]:
    """Those of all cells that have latents, by method, seed and target."""
    found = []
    for method, rows in targets.methods.items():
        for seed, target, cell in sorted({(row["seed"], row["site"], row["cell"]) for row in rows}):
            path = folder / "cells" / cell / LATENTS
            if path.is_file():
                found.append(Alignment(method, target, seed, *_read(path)))
    return found


def _read(path: Path) -> list[dict[str, Points]]:
    with np.load(path) as content:
        arrays = {tuple(name.split(":", 1)): content[name].astype(np.float32) for name in content}
    return [{site: points for (own, site), points in arrays.items() if own == split} for split in SPLITS]


def alignment_table(alignments: Sequence[Alignment], targets: Sequence[str]) -> str:
    """Accuracies of fresh classifiers by method and target, with what they are; empty if there are no latents."""
    if not alignments:
        return ""
    n_sites, body = len(alignments[0].test), []
    for method in dict.fromkeys(one.method for one in alignments):
        own = [one for one in alignments if one.method == method]
        pairs = [[pair_accuracy(name, o.train, o.test) for o in own if o.target == name] for name in targets]
        all_sites = [domain_accuracy(one.train, one.test) for one in own]
        body.append([method, *(_percent(values) for values in [*pairs, all_sites])])
    head = ["told apart by latents (%)", *(f"{name} or another" for name in targets), f"{n_sites} sites"]
    return "\n\n".join(["## Latents", _NOTE % (n_sites, 100 / n_sites), markdown(head, body)])


def _percent(values: Sequence[float]) -> str:
    if not values:
        return NONE
    percent = [100 * value for value in values]
    return Spread(fmean(percent), stdev(percent) if len(percent) > 1 else None).text(0)


def draw_alignment(alignments: Sequence[Alignment], path: Path) -> str:
    """Write the latents of test slices by method and target, first seed, in the plane of most variance.

    Returns:
        a text that describes it; empty if there are no latents, and nothing is written.
    """
    if not alignments:
        return ""
    first = alignments[0].seed
    draw_latents({f"{one.method}, without {one.target}": one.test for one in alignments if one.seed == first}, path)
    return f"latents of test slices by site, first two principal components of each panel; seed {first}"
