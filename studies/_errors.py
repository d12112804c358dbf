"""The one kind of error that a user can cause."""


class UserError(Exception):
    """Something that the user can fix. Its text is one clear sentence that says what to change; the exit code is 2."""
