"""Run the command line as `python -m dsclust`."""

from dsclust.cli import main

if __name__ == "__main__":
    main()
