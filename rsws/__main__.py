"""``python -m rsws`` is ``rsws``."""

from rsws.cli.app import main

if __name__ == "__main__":
    main()
