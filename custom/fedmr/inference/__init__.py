"""Trained models on scans."""
