"""FedMR: federated MR image super-resolution and reconstruction on NVIDIA FLARE."""

__version__ = "0.1.0"
