"""Self-supervised pretraining: masking, objectives, one visible loop, checkpoints."""
