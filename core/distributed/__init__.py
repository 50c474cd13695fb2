"""Processes that train or evaluate together."""
