"""`python -m explore`."""

from explore.cli import main

main()
