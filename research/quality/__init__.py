"""Comparison of pretraining recipes: studies by recipes by seeds."""
