"""Finds users whose vectors are near those of others."""
