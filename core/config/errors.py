"""The error for mistakes of the caller."""


class UserError(ValueError):
    """A mistake of the caller: one line that says what is wrong, where, and how to fix it."""
