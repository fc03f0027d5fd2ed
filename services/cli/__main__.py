"""`python -m services.cli`: the same as the installed `remelt` command."""

from services.cli import main

main()
