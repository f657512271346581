"""gRPC server that removes the background of photos."""
