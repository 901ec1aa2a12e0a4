"""One page for one run: what happened when to whom, what it did to the clients, and the verdict.

Data first: a :class:`~simulations.report.record.Run` is what is known of a run, as plain values, made from a
simulated one (``virtual.py``) or a real one (``simulations/soak/recorded.py``). Everything behind it is a
pure function of it, down to the text of the page (``page.py``), so both kinds of runs look the same.
"""
