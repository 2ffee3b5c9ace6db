"""Settings of DP-SGD for tests."""

SETTINGS = {
    "unit": "slice",
    "units_per_step": 4,
    "patches_per_unit": 2,
    "max_grad_norm": 0.1,
    "noise_multiplier": 1.0,
    "delta": 1e-5,
    "max_epsilon": 50.0,
}
