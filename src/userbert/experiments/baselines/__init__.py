"""The models that the paper compares UserBERT with (§4.3), and CoLES."""
