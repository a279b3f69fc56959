"""`python -m mahalad`, where the command is not on the path."""

from mahalad.cli import main

if __name__ == "__main__":
    main(prog_name="mahalad")
