"""The engine of ``rsws bench``: loads a gateway with many clients, and checks every message while it measures.

The coordinator (:func:`rsws.bench.coordinator.run`) starts worker processes that each run the same workload on their
share of the clients, and that wait for each other between the phases of a run. The clients need only the protocol
of the Node.js server, so any server of that protocol can be measured. The engine displays nothing: it reports its
progress to a callback.
"""
