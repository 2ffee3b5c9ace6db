"""Reader of what a run left on disk."""
