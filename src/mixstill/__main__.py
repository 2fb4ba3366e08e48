"""`python -m mixstill`."""

from mixstill.cli import run

if __name__ == "__main__":
    run()
