"""Runs networks. Only `runtime_onnxruntime` and `runtime_openvino` import the library of their name.

This file imports nothing, because the settings need `config`, and --help must work without a runtime.
"""
