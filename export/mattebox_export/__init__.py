"""Turns segmentation networks into verified, self-describing ONNX artifacts for the Mattebox server."""
