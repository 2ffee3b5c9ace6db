"""Leakage audit: attacks on what a site sends."""
