"""Runs the command line as `python -m userbert` or `torchrun -m userbert`."""

from userbert.cli import main

main()
