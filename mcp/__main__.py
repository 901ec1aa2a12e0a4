"""``python -m mcp`` and ``mcpctl``: the command line.

The Model Context Protocol's SDK installs an import package of the same name. When pip has put it over
ours, ``mcp.cli`` is no longer our code, so this module says what happened instead of failing obscurely.
"""

from __future__ import annotations

import sys

_SHADOWED = (
    "mcpctl: DEPENDENCY_CONFLICT: another package in this environment has taken the import name 'mcp' "
    "(the Model Context Protocol SDK does): the two cannot share one; create a new virtual environment "
    "and install message-coordination-protocol there"
)

_INTERRUPTED = 130  # mcp.cli.exits, which is not imported by then


def main() -> None:
    """Run the command line and leave the process with its exit status."""
    try:
        from mcp.cli.root import run  # noqa: PLC0415  (the import is what may have been taken over)
    except ModuleNotFoundError as error:
        if error.name is not None and not error.name.startswith("mcp"):
            missing = f"mcpctl: DEPENDENCY_MISSING: the package {error.name!r} is not installed"
            sys.exit(f"{missing}: install message-coordination-protocol again")
        sys.exit(_SHADOWED)
    except (ImportError, SystemExit):
        sys.exit(_SHADOWED)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    sys.exit(run())


if __name__ == "__main__":
    main()
