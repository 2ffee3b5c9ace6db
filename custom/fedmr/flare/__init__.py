"""FLARE adapters: the only place that imports nvflare. They move data and hold no maths."""
