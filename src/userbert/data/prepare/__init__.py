"""Turns rows into prepared data: vocabularies, bins and behavioral words."""
