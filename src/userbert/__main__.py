"""`python -m userbert` and `torchrun -m userbert` are the command line."""

from userbert.cli import main

main()
