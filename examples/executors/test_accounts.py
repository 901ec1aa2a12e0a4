"""The bank under seeded faults: ten lines. Run it with ``pytest examples/executors``."""

from accounts import Accounts


def test_accounts(cluster):
    cluster.executors(lambda: {"accounts": Accounts()})

    @cluster.client
    async def pay(client, random):
        source, target = random.sample(["ann", "bob", "eve"], 2)
        await client.execute("accounts", f"{source} {target} {random.randint(1, 50)}".encode())

    @cluster.invariant
    def no_money_is_made_or_lost(node):
        assert sum(node["accounts"].balances.values()) == 200

    cluster.run(seconds=20)
