"""Logs of many shapes, each from raw files to a verdict by commands alone."""
