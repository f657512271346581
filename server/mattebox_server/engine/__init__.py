"""Runs networks. The only package that knows onnxruntime, and only in `session` and `providers`."""

from mattebox_server.engine.engine import Engine, Inference
from mattebox_server.engine.session import Maps, Session

__all__ = ["Engine", "Inference", "Maps", "Session"]
