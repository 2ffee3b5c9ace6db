"""Class paths of earlier versions, so that an error about an old job names the new path."""

from pathlib import Path

# Old name of a module or class: its name now. The longest match counts.
OLD_PATHS = {
    "fedmr.flare.learner.SuperResolutionLearner": "fedmr.flare.learner.SiteLearner",
    "fedmr.flare.cross_site_modelling": "fedmr.flare.flmrcm",
    "fedmr.flare.algorithms": "fedmr.flare.messages",
    "fedmr.nets.peers": "fedmr.nets.baselines",
    "fedmr.guard": "fedmr.aggregation.guard",
    "fedmr.robust": "fedmr.aggregation.robust",
    "fedmr.config": "fedmr.tasks.base",
    "fedmr.dp_settings": "fedmr.tasks.dp_settings",
    "fedmr.mrcm_settings": "fedmr.algorithms.flmrcm",
    "fedmr.units": "fedmr.tasks.poisson_sampling",
    "fedmr.masks": "fedmr.physics.masks",
    "fedmr.packed_he": "fedmr.privacy.packing",
    "fedmr.dp_sgd": "fedmr.training.dp_sgd",
    "fedmr.tasks.flmrcm_settings": "fedmr.algorithms.flmrcm",
    "fedmr.training.flmrcm": "fedmr.algorithms.flmrcm",
    "fedmr.training.optimizers": "fedmr.utils.optimizers",
    "fedmr.cross_site_modelling": "fedmr.algorithms.flmrcm",
}


def new_path(path: str) -> str | None:
    """Return the current name of a class path of an earlier version, None if `path` is not one.

    A class of a moved module keeps its own name: "fedmr.guard.Limits" gives "fedmr.aggregation.guard.Limits".
    """
    for old in sorted(OLD_PATHS, key=len, reverse=True):
        if path == old or path.startswith(f"{old}."):
            return OLD_PATHS[old] + path.removeprefix(old)
    return None


def refuse_old_job(job: Path) -> None:
    """Refuse a job folder whose configs name classes by their old paths.

    Raises:
        ValueError: naming the first old path and the new one.
    """
    for config in sorted(job.glob("*/config/*.*")):
        if config.is_file():
            refuse_old_paths(config.read_text(errors="replace"), config)


def refuse_old_paths(text: str, source: object) -> None:
    """Refuse a config that names classes by their old paths.

    Args:
        text: content of the config file.
        source: the file, for the message.

    Raises:
        ValueError: naming the first old path and the new one.
    """
    for word in text.replace('"', " ").replace("'", " ").split():
        if new := new_path(word):
            raise ValueError(
                f"{source} is from an earlier version: {word} is now {new}. Render the job again, or edit it"
            )
