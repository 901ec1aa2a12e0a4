"""The client: finds the nodes and the leader itself, and retries only what is safe."""
