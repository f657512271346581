"""What can go wrong with an export."""


class ExportError(Exception):
    """The export can't be done as asked. The message says why and what to do; nothing was written."""
