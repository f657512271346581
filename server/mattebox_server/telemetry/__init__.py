"""The log line, the metrics and the traces that each request leaves."""
