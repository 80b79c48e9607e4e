"""Pretraining without labels: masking, objectives, the training loop, checkpoints."""
