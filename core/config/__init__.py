"""Configs: what they may say, reading them, and the error for what is wrong in them."""
