"""Which updates count, and their means."""
