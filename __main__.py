"""The front door as `python -m whalebench`."""

from whalebench.cli import main

if __name__ == "__main__":
    main()
