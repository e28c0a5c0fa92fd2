"""`python -m x1` is the command line."""

from x1.cli.entry import entry

if __name__ == "__main__":
    entry()
