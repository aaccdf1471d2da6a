"""`python -m recsys.cli`, as launchers start it."""

from recsys.cli import main

main()
