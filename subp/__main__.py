"""`python -m subp`, which torchrun needs: the command line `subp`."""

from subp.cli import main

main()
