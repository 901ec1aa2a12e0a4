"""Membership and failure detection by gossip: who is there, what each can do, and who has gone. Pure.

- Failure detection and dissemination: SWIM (Das, Gupta, Motivala, "SWIM: Scalable Weakly-consistent
  Infection-style Process Group Membership Protocol", 2002), with suspicion and refutation by incarnations.
- Fewer false alarms: Lifeguard (Dadgar, Phillips, Currey, "Lifeguard: SWIM-ing with Situational Awareness",
  2017), with local health, suspicion timeouts that shrink with confirmations, and suspects told first.
- Equal views for sure: anti-entropy (Demers et al., "Epidemic Algorithms for Replicated Database
  Maintenance", 1987) between views whose digests differ.

:mod:`core` is the node; :mod:`membership` and :mod:`view` say what becomes of an update; :mod:`detector`
probes; :mod:`anti_entropy` and :mod:`sync` join and compare; :mod:`post`, :mod:`dissemination`, :mod:`codec`
and :mod:`seal` are the way out and in; :mod:`limits` has every bound and time, and what they trade.

A view decides where requests go. Who votes is decided by consensus alone, so a false death costs a detour
and no safety.
"""
