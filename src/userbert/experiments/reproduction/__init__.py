"""The paper's baselines and experiments again: what is asked, what is learned, what came of it."""
