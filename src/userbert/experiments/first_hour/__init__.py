"""Logs of many shapes, each from raw files to a verdict as a stranger would go: no file edited."""
