"""What the explorer shows, computed from prepared data, models and vectors: plain records."""
