"""The semantic router: which version of which model answers a request, and which nodes may, with the reasons.

Pure: a decision is a function of the request's features, the models, the view of the nodes, the rules, the
routes and a seed. :mod:`mcp.cluster.router.router` has it; the other modules are its vocabulary.
"""
