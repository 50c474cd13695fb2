"""Configs: their schema, reading them, and the error for mistakes in them."""
