"""Train an exported MONAI bundle in a federation: `python examples/monai_bundle_federation.py BUNDLE DATA`."""

import sys
from pathlib import Path

from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv

bundle, data = (Path(argument).resolve() for argument in sys.argv[1:])
sites = sorted(path.parent.name for path in data.glob("*/datalist.json"))
recipe = FedAvgRecipe(
    name="monai_bundle",
    model={"class_path": "torch.jit.load", "args": {"f": str(bundle / "models" / "model.ts")}},
    min_clients=len(sites),
    num_rounds=2,
    train_script=str(Path(__file__).with_name("monai_bundle_client.py")),
    train_args=f"--bundle {bundle} --data {data}",
    aggregator_data_kind="WEIGHT_DIFF",
    key_metric="psnr",
)
print(recipe.execute(SimEnv(clients=sites, workspace_root="runs")).get_result())
