"""Errors that a user sees: each names the file or value and the remedy."""


class DataError(ValueError):
    """A site's data cannot be used; the message names the file and the remedy."""


class UnsafeError(ValueError):
    """Something would leave the site that must not; nothing is sent."""
