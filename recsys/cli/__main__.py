"""`python -m recsys.cli`, as launchers start it."""

from recsys.cli import main

if __name__ == "__main__":
    main()
