class LogFormatter:
    def __init__(self, *, labelOnlyBase: bool, minor_thresholds: tuple[float, float]) -> None: ...  # noqa: N803
