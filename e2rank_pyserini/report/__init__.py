"""Runs as a page with pictures."""
