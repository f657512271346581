"""int8 networks: calibration, quantised graphs, and the gate that every reduced precision has to pass."""
