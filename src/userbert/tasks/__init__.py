"""Labels, and the models that are fitted to them: metrics, contestants, prediction."""
