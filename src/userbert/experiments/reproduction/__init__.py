"""The paper's experiments, repeated: its baselines, figures and table."""
