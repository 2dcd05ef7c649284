"""The command ``pellucid``, and ``python -m service`` in the repository."""

import os
import sys
import threading


def main() -> None:
    """Run the command line, or end with a sentence if what it needs is not installed."""
    try:
        from .cli import main
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("pellucid", "service", "models"):  # a fault of ours
            raise
        sys.exit(f"pellucid: the command needs {error.name}: pip install 'pellucid[serve]'")
    try:
        main()
    except SystemExit as ended:
        # A daemon thread that returns from C++ while the interpreter ends would abort the process.
        if isinstance(ended.code, int) and any(thread.daemon for thread in threading.enumerate()):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended.code)
        raise


if __name__ == "__main__":
    main()
