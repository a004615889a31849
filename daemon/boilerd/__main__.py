"""``python -m boilerd``."""

from boilerd.cli import main

if __name__ == "__main__":
    main()
