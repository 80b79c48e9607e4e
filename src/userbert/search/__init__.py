"""Finds users whose vectors are near those of other users."""
