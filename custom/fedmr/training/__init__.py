"""Training loops and federated algorithms, without FLARE."""
