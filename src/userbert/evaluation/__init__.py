"""Compares contestants by cross-validation and says what the numbers allow."""
