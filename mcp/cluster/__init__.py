"""The cluster as a node sees it: who is there, who can do what, and who gets a request. Pure."""
