"""`python -m octavo`: the `octavo` command, for torchrun and wherever scripts are not installed."""

from octavo.cli.main import run

if __name__ == "__main__":
    run()
