"""HTTP service: vectors and scores from raw events, and the explorer."""
