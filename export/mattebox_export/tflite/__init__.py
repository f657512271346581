"""TFLite files as ONNX: `reader` takes the file apart, the others make the graph of it."""
