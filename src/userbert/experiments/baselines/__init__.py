"""Baseline models of the paper (§4.3), and CoLES."""
