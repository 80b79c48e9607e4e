"""Research outside the package: studies, and generators of documentation pages."""
