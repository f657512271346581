"""The part of PyTriton that a peer of the load benchmark uses."""
