"""How the strategies of a cluster do on real nodes of unequal speed."""
