"""A provisioned federation, driven as an operator drives it: by FLARE's own commands. Nothing here imports nvflare."""
