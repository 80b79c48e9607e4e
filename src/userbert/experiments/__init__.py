"""Whole experiments: the demo, the simulator, the paper again."""
