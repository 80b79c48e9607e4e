"""Whole experiments on public data; they use the package as its users do."""
