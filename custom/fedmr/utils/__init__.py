"""Helpers that know nothing of MR or federations."""
