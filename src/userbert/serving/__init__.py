"""Trained models put to use: batch embedding."""
