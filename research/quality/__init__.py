"""Which pretraining gives better vectors: studies by recipes by seeds."""
