"""The HTTP service: vectors and scores of live events, and the explorer."""
