"""Every rule that a run can be held against, and in one line why it is one.

The whole of each theory stands at the head of the checker: `simulations.invariants` for what is looked at
in every step, `simulations.checking` for histories, `simulations.nodes` for whole nodes.
"""

from __future__ import annotations

from typing import Final

STEPS: Final = {
    "election safety": "A term has at most one leader, elected by a majority: two would each fill the same "
    "positions of the log.",
    "leader completeness": "A leader has every entry that was committed before its term: it would overwrite "
    "what it lacks.",
    "log matching": "Logs that agree on the index and term of an entry are equal up to there.",
    "state machine safety": "All nodes apply the same entry at an index, and have the same state behind it.",
    "committed never changes": "What was committed once is committed for ever, through restarts and "
    "snapshots.",
    "quorum durability": "Committed means on the synced disks of a majority: an acknowledgement survives "
    "the power loss of all.",
    "one member at a time": "A configuration differs from the one before in one member's place: majorities "
    "of the two share a node.",
    "promises are durable": "A vote, a term or an acknowledgement leaves a node only after the sync that "
    "covers it.",
    "acknowledgements are true": "What a follower acknowledges is in its log, as it was sent: a leader "
    "counts nothing else.",
    "caught up first": "Who is made a voter has nearly all of the log: it counts towards the majority that "
    "everybody needs.",
    "commits are counted": "An entry is committed when a majority's acknowledgements have reached its "
    "leader, in the leader's own term.",
    "elections are wanted": "An election is called where a majority has consented to it, or the leader has "
    "asked for it: a reign ends for a reason.",
    "leaders are heard": "A leader that a majority has been silent to steps down: others may lead by then.",
    "reads are fresh": "A linearizable read sees all that was committed when it came, and ends by its "
    "deadline.",
    "nothing goes back": "Terms, votes, synced entries and commit indexes never go back, restarts included.",
    "proposals resolve once": "Every proposal has exactly one outcome, by its deadline, and the outcome is "
    "true.",
    "a node stops only for a fault": "A node may end itself for a disk that failed, and for nothing else.",
    "a disk that was not damaged is read": "Whatever a crash left on a disk that nobody damaged, a node "
    "starts from it.",
    "a healed cluster comes back": "In bounded time after the last fault there is one leader, a fresh write "
    "succeeds, and all states are equal.",
}
"""Looked at in every step of a simulated run."""

NODES: Final = {
    "a node starts on what it left": STEPS["a disk that was not damaged is read"],
    "replicas apply the same": "All replicas apply the same commands at the same places, with the same "
    "outcomes.",
    "replicas hold the same state": "Behind the same log index the whole states have equal digests.",
    "no command meets a defect": "No command that clients can send makes the state machine fail.",
    "executors execute once, in one order": "An executor executes each acknowledged command once, none that "
    "failed, in an order that no answer refutes.",
    "no loop spins": "A node that waits does nothing: whatever turns without pause does the same in vain.",
    "every call ends by its deadline": "A client is never left waiting longer than it said it would.",
    "no client is told of a defect": "Faults excuse errors of their kind, and no internal ones.",
    "a result is the model's": "Every result of an inference is what the model, run alone, answers.",
    "an answer that is not the model's own says so": "What is given instead of a refusal or a failure is "
    "what was declared, called what it is, and no older than was allowed.",
    "who has deployed a version is served by it": "After a deploy was acknowledged no older version answers.",
    "nodes with the same routes decide alike": "What is declared is part of the state: nodes that hold the "
    "same of it send the same session to the same version.",
    "no share is granted beyond the limit": "A share of the cluster's limit is granted out of what nobody "
    "else may still be using.",
    "what nodes may use of a limit is not more than the limit": "Shares that run, of whatever age, add up to "
    "the limit at most: so it holds without a look at the log for each request.",
    "every living node sees the same living nodes": "Gossip that goes on brings all views together: those "
    "who are there, no others, each with what it says of itself now.",
    "a stream's steps come in order, of one version": "A stream is one node's run of one version: whatever "
    "befalls it, what was read of it is its beginning.",
    "a rollout has one state at a log position": "A step of a rollout is one entry: the record and the "
    "weights change with it, on every node alike.",
    "a voter is replaced only after the declared time": "The node that leads has heard nothing of it for so "
    "long, by its own clock and since it leads: whoever only was slow, or gossips badly, keeps its vote.",
    "an acknowledged deploy is on a quorum": "The bytes of a deployed model survive the loss of a minority.",
}
"""Looked at in simulated runs of whole nodes."""

HISTORIES: Final = {
    "linearizability": "Every key behaves as if each call had taken effect at one moment between its "
    "beginning and its end (Herlihy and Wing 1990).",
    "read your writes": "A session's read is at least as new as each of its earlier acknowledged writes.",
    "monotonic reads": "A session's read is at least as new as everything that it had read before.",
    "monotonic writes": "A session's write comes after each of its earlier acknowledged writes.",
    "writes follow reads": "A session's write comes after everything that it had read before.",
    "reads are of writes": "Whatever was read, some write wrote it that had been asked for by then.",
    "causal delivery": "Nobody is handed a message before one that it may be a consequence of (Lamport "
    "1978).",
    "exactly one effect": "What was acknowledged took effect once, what failed did not, the rest at most "
    "once.",
    "effects counted in the final state": "A key's final version counts the writes that took effect: at "
    "least the acknowledged, at most these and the unknown.",
    "counters count every raise once": "A key that compare-and-set alone raises, by one each time, ends at "
    "the number of raises that took effect.",
    "fencing": "A result counts only under the token of the latest grant, and is recorded once (Gray and "
    "Cheriton 1989).",
    "one recorded result": "A finished record never changes, and what was accepted ends.",
}
"""Asked of histories, of simulated and of real runs."""

AUDIT: Final = {
    "every call comes back in time": "A call that hangs, or ends after its deadline, is an answer that "
    "somebody waits for in vain.",
    "every node holds the same": "Read by itself, each node has the digest, the keys and the records that "
    "the cluster told.",
    "no node ends by itself": "A process that nobody killed, and whose disk is well, keeps running.",
    "the healed cluster settles": "In bounded time after the last fault all nodes follow one leader and are "
    "equally far.",
}
"""Asked of real processes beside their history."""

THEORIES: Final = STEPS | NODES | HISTORIES | AUDIT
