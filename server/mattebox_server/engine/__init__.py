"""Runs networks. The only package that knows onnxruntime, and only in `session` and `providers`.

Imports nothing itself: the settings need `options`, and --help needs no onnxruntime.
"""
