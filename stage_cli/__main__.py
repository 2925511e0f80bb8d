"""`python -m stage_cli` is `stage`."""

from stage_cli.cli.app import main

main()
