"""The error of an export."""


class ExportError(Exception):
    """The export can't be done, and nothing was written. The message says why, and what to do."""
