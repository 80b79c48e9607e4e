"""Reproduction of the paper's experiments: models, figures and table."""
