"""FLARE's federated statistics over the sites' scans: the generator, and privacy pieces that fail closed."""

import os
import time
from typing import Any

from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.statistics_spec import Bin, DataType, Feature, Histogram, HistogramType, Statistics
from nvflare.app_common.app_constant import StatisticsConstants
from nvflare.app_common.executors.statistics.statistics_executor import StatisticsExecutor
from nvflare.app_common.filters.statistics_privacy_filter import StatisticsPrivacyFilter
from nvflare.app_common.statistics.histogram_bins_cleanser import HistogramBinsCleanser
from nvflare.app_common.statistics.min_count_cleanser import MinCountCleanser
from nvflare.app_common.statistics.min_max_cleanser import AddNoiseToMinMax
from nvflare.app_common.statistics.statistics_privacy_cleanser import StatisticsPrivacyCleanser
from nvflare.fuel.utils.log_utils import get_obj_logger

from fedmr.data.statistics import Sample, cohorts, measure
from fedmr.flare.sites import local_folder, site_folder
from fedmr.privacy.cohorts import COHORTS_FILE, Cohorts
from fedmr.privacy.policy import read_policy

_NOISE = 0.1, 0.3  # least shares by which the ends of a range are moved, where a policy names min_patients
_MOST_BINS = 10  # percent of the records, of a histogram there


class SiteStatistics(Statistics):
    """Statistics of a site's scans; what is counted is in `fedmr.data.statistics`.

    The volumes are read once, when the job starts. A site whose data cannot be used says why, once. So does one whose
    earlier statistics were of nearly the same patients (`fedmr.privacy.cohorts`).

    Args:
        data_sets: which volumes belong to which data set; see `fedmr.data.statistics.measure`.
    """

    def __init__(self, data_sets: dict[str, dict[str, list[str]]]) -> None:
        super().__init__()
        self.data_sets = data_sets
        self.failed = False
        self._samples: dict[str, dict[str, Sample]] = {}

    def initialize(self, fl_ctx: FLContext) -> None:
        """Read the site's volumes; a failure is kept, for the executor to return with every task."""
        site, logger, started = fl_ctx.get_identity_name(), get_obj_logger(self), time.perf_counter()
        prefix = ""
        try:
            folder = site_folder(fl_ctx)
            prefix = f"{folder}{os.sep}"
            local = local_folder(fl_ctx)
            least = read_policy(local).min_patients
            Cohorts(local / COHORTS_FILE).release(cohorts(folder, self.data_sets), least)
            self._samples = measure(folder, self.data_sets)
        except (ValueError, OSError) as error:
            self.failed = True
            # FLARE can send a site's log to the server, so files are named from the site's folder on
            logger.error(f"{site} cannot take part: {str(error).replace(prefix, '')}")
            return
        logger.info(f"{site} | measured its volumes in {time.perf_counter() - started:.1f} s")

    def features(self) -> dict[str, list[Feature]]:
        """Features by data set."""
        return {name: [Feature(f, DataType.FLOAT) for f in features] for name, features in self._samples.items()}

    def count(self, dataset_name: str, feature_name: str) -> int:
        """Number of records: voxels, volumes or patients."""
        return self._samples[dataset_name][feature_name].count

    def sum(self, dataset_name: str, feature_name: str) -> float:
        """Sum of the records."""
        return self._samples[dataset_name][feature_name].total

    def mean(self, dataset_name: str, feature_name: str) -> float:
        """Mean of the records."""
        return self._samples[dataset_name][feature_name].mean

    def stddev(self, dataset_name: str, feature_name: str) -> float:
        """Standard deviation of the site's own records."""
        return self._samples[dataset_name][feature_name].stddev

    def variance_with_mean(
        self, dataset_name: str, feature_name: str, global_mean: float, global_count: float
    ) -> float:
        """The site's part of the variance of all sites' records."""
        return self._samples[dataset_name][feature_name].variance(global_mean, int(global_count))

    def min_value(self, dataset_name: str, feature_name: str) -> float:
        """Smallest record; FLARE adds noise before it leaves."""
        return self._samples[dataset_name][feature_name].extremes()[0]

    def max_value(self, dataset_name: str, feature_name: str) -> float:
        """Largest record; FLARE adds noise before it leaves."""
        return self._samples[dataset_name][feature_name].extremes()[1]

    def histogram(
        self, dataset_name: str, feature_name: str, num_of_bins: int, global_min_value: float, global_max_value: float
    ) -> Histogram:
        """Histogram with bins of equal width; records outside the range count in the outermost bins."""
        sample = self._samples[dataset_name][feature_name]
        edges, counts = sample.histogram(num_of_bins, global_min_value, global_max_value)
        bins = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
        return Histogram(HistogramType.STANDARD, [Bin(*values) for values in bins])


class SiteStatisticsExecutor(StatisticsExecutor):
    """FLARE's executor, and the end of the job where a site's data cannot be used.

    FLARE's own would silence the site for its failure and let the server wait for it.
    """

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Statistics of one task; see the base class."""
        if fl_ctx.get_engine().get_component(self.generator_id).failed:
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)
        return super().execute(task_name, shareable, fl_ctx, abort_signal)


class SmallDataSetCleanser(MinCountCleanser):
    """Hides a data set whole if one of its features has fewer than `min_count` records, as that of patients has first.

    FLARE's cleanser judges each feature by itself, so two patients' million voxels would leave. It also leaves the
    exact count of what it hides, which the server then divides the sum of the other sites by: the global mean and
    deviation come out wrong. Here a hidden data set keeps nothing but counts of 0.
    """

    def min_count_validate(self, client_name: str, statistics: dict[str, Any]) -> dict[str, dict[str, bool]]:
        """Per data set and feature, whether it may leave."""
        valid = super().min_count_validate(client_name, statistics)
        return {name: dict.fromkeys(features, all(features.values())) for name, features in valid.items()}

    def apply(self, statistics: dict[str, Any], client_name: str) -> tuple[dict[str, Any], bool]:
        """Statistics without those of small data sets."""
        valid = self.min_count_validate(client_name, statistics)
        statistics, changed = super().apply(statistics, client_name)
        for name, features in valid.items():
            if not all(features.values()):
                statistics[StatisticsConstants.STATS_COUNT][name] = dict.fromkeys(features, 0)
                changed = True
        return statistics, changed


_NEEDED = {
    SmallDataSetCleanser: "small data sets would leave",
    AddNoiseToMinMax: "a smallest or largest value is one patient's",
    HistogramBinsCleanser: "a bin could hold one patient",
}


class StrictStatisticsFilter(StatisticsPrivacyFilter):
    """FLARE's filter, which however passes statistics on uncleansed where a cleanser's id is not found."""

    def get_cleansers(self, result_checker_ids: list[str], fl_ctx: FLContext) -> list[StatisticsPrivacyCleanser]:
        """The cleansers, all of them, none of which hides less than the site's policy asks for.

        Raises:
            ValueError: one is missing, also one of those that a site needs whose policy names `min_patients`; FLARE
                then sends nothing and the server ends the job.
        """
        cleansers = super().get_cleansers(result_checker_ids, fl_ctx)
        if len(cleansers) < max(len(result_checker_ids), 1):
            raise ValueError(f"not all of the cleansers {result_checker_ids} are components of this job")
        least = read_policy(local_folder(fl_ctx)).min_patients
        if least > 1:
            for kind, hidden in _NEEDED.items():
                if not any(isinstance(cleanser, kind) for cleanser in cleansers):
                    raise ValueError(
                        f"the site's policy names min_patients, and the job has no {kind.__name__}: {hidden}"
                    )
            for cleanser in cleansers:
                _tighten(cleanser, least)
        return cleansers


def _tighten(cleanser: StatisticsPrivacyCleanser, least: int) -> None:
    """Let a cleanser hide no less than a site with a policy asks for, whatever the job says."""
    if isinstance(cleanser, SmallDataSetCleanser):
        cleanser.min_count = max(cleanser.min_count, least)
    elif isinstance(cleanser, AddNoiseToMinMax):
        cleanser.noise_level = tuple(map(max, cleanser.noise_level, _NOISE))
    elif isinstance(cleanser, HistogramBinsCleanser):
        cleanser.max_bins_percent = min(cleanser.max_bins_percent, _MOST_BINS)
