"""The error for what a caller gave wrongly."""


class UserError(ValueError):
    """A mistake of the caller: one line that says what is wrong, where, and how to fix it."""
