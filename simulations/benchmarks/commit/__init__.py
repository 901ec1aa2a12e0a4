"""``commit``: durable commands, one alone and many at once, beside etcd and bare PySyncObj."""
