"""A site that trains a MONAI bundle of its own disk: FLARE's Client API around MONAI's MonaiAlgo."""

import argparse
import sys
from pathlib import Path

import nvflare.client as flare
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, FlStatistics
from monai.fl.utils.exchange_object import ExchangeObject

parser = argparse.ArgumentParser()
parser.add_argument("--bundle", required=True, help="the site's copy of the bundle")
parser.add_argument("--data", required=True, help="data root of the site; its scans are in DATA/SITE")
arguments = parser.parse_args()

sys.path.insert(0, arguments.bundle)  # its scripts
flare.init()
site = {"dataset_dir": str(Path(arguments.data) / flare.get_site_name())}
config = "configs/train.json"  # its evaluator takes the validation volumes; evaluate.json would take the test volumes
algo = MonaiAlgo(arguments.bundle, train_kwargs=site, eval_kwargs=dict(site), config_evaluate_filename=config)
algo.initialize({ExtraItems.CLIENT_NAME: flare.get_site_name()})
while flare.is_running():
    received = ExchangeObject(weights=flare.receive().params)
    metrics = algo.evaluate(received).metrics
    algo.train(received)
    trained = algo.get_weights()
    steps = trained.statistics[FlStatistics.NUM_EXECUTED_ITERATIONS]
    result = flare.FLModel(params=trained.weights, params_type="DIFF", metrics=metrics)
    result.meta["NUM_STEPS_CURRENT_ROUND"] = steps
    flare.send(result)
