"""Losses: for each family of detectors the terms that training minimises, as a named dict."""
