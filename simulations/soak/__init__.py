"""Real node processes under real faults: killed, paused, cut off, slowed down, out of disk, and audited.

``plan`` says what goes wrong and when, ``supervisor`` starts and kills processes, ``relay`` and ``mesh``
stand between them, ``inject`` makes a plan happen, ``workload`` asks and records, ``audit`` reads everything
back, ``run`` puts them together, ``report`` judges and shows, ``command`` is the command line.

It is honestly nondeterministic: a seed decides the plan and every draw, and the operating system when
what arrives. What has to replay exactly belongs to the simulated world.
"""
