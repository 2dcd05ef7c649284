"""``python -m pellucid.compiler NAME --out FILE``: compile a network by name, as ``pellucid.open`` and the service do.

If the network can't be compiled, the reason goes to standard output and the exit code is 2. Progress goes to standard
error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pellucid.compiler.compiling import CompileError, compile_network
from pellucid.compiler.sources import SourceError, named
from pellucid.network.names import REFUSED


def main() -> int:
    """The command's exit code."""
    parser = argparse.ArgumentParser(prog="pellucid.compiler", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quiet", action="store_true")
    given = parser.parse_args()
    try:
        net, model = named(given.name)
        compile_network(net, model, given.out, progress=not given.quiet, any_size=True)
    except (CompileError, SourceError, OSError) as error:
        sys.stdout.write(f"{error}\n")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
