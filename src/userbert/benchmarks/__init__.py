"""Speed beside peers: the same work in one run."""
