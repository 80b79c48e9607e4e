"""Speed beside peers: the same work, in one run. Each figure names its machine and commit."""
