"""What vectors are for: labels, the features one has already, fine-tuning, honest evaluation."""
