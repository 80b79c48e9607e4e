"""Whole experiments on public and simulated data; they use the package as its users do."""
