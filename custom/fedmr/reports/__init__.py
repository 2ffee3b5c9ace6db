"""Pages, tables and pictures of a run."""
