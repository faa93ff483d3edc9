"""The entry point of the command ``rsws``, which is the same as ``python -m rsws``."""

import gc
import sys


def main() -> None:
    """Run the command line. Ctrl-C before a command handles it, imports included, ends it without a traceback."""
    gc.disable()  # nothing of what is imported is garbage; a command enables it when it runs
    try:
        from rsws.cli.lazily import load_lazily

        load_lazily()
        from rsws.cli.app import main as run

        run()
    except KeyboardInterrupt:
        from rsws.cli.exits import ExitCode

        sys.exit(ExitCode.INTERRUPTED)
    finally:
        gc.freeze()  # the process ends: Python is not to look through all that there is for garbage


if __name__ == "__main__":
    main()
