"""What a run left on disk."""
