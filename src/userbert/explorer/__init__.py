"""The explorer's page, and the figures that it shows."""
