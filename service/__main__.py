"""The command ``pellucid``, and ``python -m service`` in the repository."""

import sys


def main() -> None:
    """Run the command line, or end with a sentence if what it needs is not installed."""
    try:
        from .cli import main
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("pellucid", "service", "models"):  # a fault of ours
            raise
        sys.exit(f"pellucid: the command needs {error.name}: pip install 'pellucid[serve]'")
    main()


if __name__ == "__main__":
    main()
