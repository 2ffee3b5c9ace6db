"""Scans of a site: datalist, images, readers and splits."""
