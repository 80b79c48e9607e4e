"""The explorer's web page and the figures it shows."""
