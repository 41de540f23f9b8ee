"""`python -m kd2edge`: the same as the command `kd2edge`."""

from kd2edge.cli import main

if __name__ == "__main__":
    main()
