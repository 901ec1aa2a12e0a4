"""The command line, ``mcpctl``. It composes the client and the node, and decides nothing itself.

Every command lives in a module of its own that is imported when the command is run, so that asking
for help costs nothing. :func:`mcp.cli.root.run` is the entry.
"""
