"""``python -m boilerd``."""

import sys

if __name__ == "__main__":
    # Python puts the working directory first; what is there must not take the place of a library.
    if not sys.flags.safe_path:
        del sys.path[0]

    from boilerd.cli import main

    main()
