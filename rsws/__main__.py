"""The entry point of ``python -m rsws``, which is the same as the command ``rsws``."""

from rsws.cli.app import main

if __name__ == "__main__":
    main()
