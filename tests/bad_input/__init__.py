"""Invalid input: each case gives one error message and leaves no output."""
