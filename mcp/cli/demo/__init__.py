"""``mcpctl demo``: three real processes, a real model, a leader that is killed, and a check of every promise.

``cluster`` starts and kills the processes, ``workload`` asks and writes, ``scenario`` says what happens
when, ``audit`` reads everything back from every node, ``report`` judges, ``display`` shows.
"""
