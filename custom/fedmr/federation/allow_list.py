"""The classes that a job without code may name at server and sites: all that FedMR's jobs use, and nothing else.

FLARE calls whatever an allowed path leads to with the arguments of the job. So every entry is the path of one
component, network, loss or optimiser, and none is a package: below a package there are commands. A site may add to
the list in its own policy (`fedmr.privacy.policy`), a job cannot.
"""

import re
from collections.abc import Iterable, Sequence

# what leaves through one of these is checked, and metrics of too few volumes do not
PRIVACY_FILTERS = frozenset(
    f"fedmr.flare.filters.{name}"
    for name in ("GaussianPrivacy", "StrictExcludeVars", "StrictPercentilePrivacy", "StrictSVTPrivacy")
)
_FEDMR = (
    *sorted(PRIVACY_FILTERS),
    "fedmr.flare.aggregators.EqualAggregator",
    "fedmr.flare.aggregators.RunningAggregator",
    "fedmr.flare.aggregators.WeightedAggregator",
    "fedmr.flare.ckks.CkksDecryptor",
    "fedmr.flare.ckks.CkksEncryptor",
    "fedmr.flare.flmrcm.CrossSiteExecutor",
    "fedmr.flare.flmrcm.CrossSiteScatterAndGather",
    "fedmr.flare.flmrcm.OnlyLatents",
    "fedmr.flare.guard.ServerGuard",
    "fedmr.flare.guard.SiteGuard",
    "fedmr.flare.he.HEModelLocator",
    "fedmr.flare.he.PackedAggregator",
    "fedmr.flare.he.PackedDecryptor",
    "fedmr.flare.he.PackedEncryptor",
    "fedmr.flare.he.PackedPersistor",
    "fedmr.flare.learner.SiteLearner",
    "fedmr.flare.pooled.OneSiteOnly",
    "fedmr.flare.robust.RobustAggregator",
    "fedmr.flare.statistics.SiteStatistics",
    "fedmr.flare.statistics.SiteStatisticsExecutor",
    "fedmr.flare.statistics.SmallDataSetCleanser",
    "fedmr.flare.statistics.StrictStatisticsFilter",
    "fedmr.flare.undoing.UndoingScatterAndGather",
    "fedmr.flare.undoing.UndoingScatterAndGatherScaffold",
    "fedmr.nets.build",
)
_FLARE = (
    "nvflare.app_common.executors.learner_executor.LearnerExecutor",
    "nvflare.app_common.filters.dxo_blocker.DXOBlocker",
    "nvflare.app_common.shareablegenerators.full_model_shareable_generator.FullModelShareableGenerator",
    "nvflare.app_common.statistics.histogram_bins_cleanser.HistogramBinsCleanser",
    "nvflare.app_common.statistics.json_stats_file_persistor.JsonStatsFileWriter",
    "nvflare.app_common.statistics.min_max_cleanser.AddNoiseToMinMax",
    "nvflare.app_common.widgets.convert_to_fed_event.ConvertToFedEvent",
    "nvflare.app_common.widgets.intime_model_selector.IntimeModelSelector",
    "nvflare.app_common.widgets.metrics_artifact_writer.MetricsArtifactWriter",
    "nvflare.app_common.widgets.validation_json_generator.ValidationJsonGenerator",
    "nvflare.app_common.workflows.cross_site_model_eval.CrossSiteModelEval",
    "nvflare.app_common.workflows.global_model_eval.GlobalModelEval",
    "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
    "nvflare.app_common.workflows.scatter_and_gather_scaffold.ScatterAndGatherScaffold",
    "nvflare.app_common.workflows.statistics_controller.StatisticsController",
    "nvflare.app_opt.he.intime_accumulate_model_aggregator.HEInTimeAccumulateWeightedAggregator",
    "nvflare.app_opt.he.model_serialize_filter.HEModelSerializeFilter",
    "nvflare.app_opt.he.model_shareable_generator.HEModelShareableGenerator",
    "nvflare.app_opt.pt.fedopt.PTFedOptModelShareableGenerator",
    "nvflare.app_opt.pt.file_model_locator.PTFileModelLocator",
    "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor",
    "nvflare.app_opt.tracking.tb.tb_receiver.TBAnalyticsReceiver",
    "nvflare.app_opt.tracking.tb.tb_writer.TBWriter",
)
_TORCH = ("torch.optim.Adam", "torch.optim.SGD")  # steps of the server, in FedOpt and FedAvgM

ALLOWED = (*_FEDMR, *_FLARE, *_TORCH)

_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def class_allow_list(of_site: Iterable[str] = ()) -> list[str]:
    """FLARE's `class_allow_list` for a kit.

    Args:
        of_site: classes that the site's owner adds.

    Raises:
        ValueError: naming the entry that is no path of a class.
    """
    return list(dict.fromkeys([*ALLOWED, *checked_classes(list(of_site))]))


def checked_classes(names: Sequence[str]) -> tuple[str, ...]:
    """Paths of classes, none of which stands for more than itself.

    FLARE takes an entry for all that begins with it and a dot. By Python's habit a class has a capital; a module or
    package, below which there is more, has none.

    Raises:
        ValueError: naming the entry.
    """
    for name in names:
        if not _CLASS.fullmatch(name) or not name.rpartition(".")[2][:1].isupper():
            raise ValueError(
                f"class {name!r} is not the full path of one class, e.g. monai.networks.nets.UNet; packages and "
                "prefixes would allow whatever lies below"
            )
    return tuple(names)
