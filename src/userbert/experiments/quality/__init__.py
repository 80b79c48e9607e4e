"""Research on quality: which recipe of pretraining gives vectors that are worth having."""
