"""The entry point of the command ``rsws``, which is the same as ``python -m rsws``."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C before a command handles it, imports included, ends it without a traceback."""
    try:
        from rsws.cli.app import main as run

        run()
    except KeyboardInterrupt:
        from rsws.cli.exits import ExitCode

        sys.exit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    main()
