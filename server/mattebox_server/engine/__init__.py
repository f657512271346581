"""Runs networks. Only the modules `session` and `providers` import onnxruntime.

This file imports nothing, because the settings need `config`, and --help must work without onnxruntime.
"""
