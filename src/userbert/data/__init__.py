"""From raw logs to batches: sources → vocabulary, words → prepared data → sequences → batches."""
