"""Experiments: the demo, the simulator, and the reproduction of the paper."""
