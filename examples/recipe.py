"""A federation in Python: `python examples/recipe.py [poc | ADMIN_KIT]`; by default in FLARE's simulator."""

import sys

from nvflare.recipe import PocEnv, ProdEnv, SimEnv

from fedmr.flare.recipe import FedMRRecipe

where = sys.argv[1] if len(sys.argv) > 1 else "sim"
recipe = FedMRRecipe("mscan_fedavg", name="mine", num_rounds=2, task={"network": {"name": "srcnn"}})
if where == "sim":
    run = recipe.execute(SimEnv(num_clients=2, workspace_root="runs"))
elif where == "poc":
    run = recipe.execute(PocEnv(num_clients=2))
else:
    run = recipe.execute(ProdEnv(startup_kit_location=where, username="admin@hub.org", login_timeout=30))
print(run.get_result(clean_up=False))
