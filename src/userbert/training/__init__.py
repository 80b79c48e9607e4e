"""Pretraining without labels: masking, objectives, the one training loop, checkpoints."""
