"""Latency and capacity under load, of Mattebox and of what people use instead."""
