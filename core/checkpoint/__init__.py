"""Snapshots of a run on disk."""
