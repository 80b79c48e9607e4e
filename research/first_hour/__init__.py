"""Studies of the first hour of use: from raw logs of many shapes to a verdict, by commands only."""
