"""Detectors as files that other programs run, and such files as detectors."""
