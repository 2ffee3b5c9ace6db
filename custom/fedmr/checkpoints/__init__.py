"""Model files, their cards and their exported forms."""
