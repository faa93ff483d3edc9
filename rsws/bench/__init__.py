"""The engine of ``rsws bench``: loads a gateway with many clients, and checks every message while it measures.

The coordinator (:func:`rsws.bench.coordinator.run`) starts processes that all run the same work on their share of the
clients, and lets them wait for each other between its phases. Clients speak the protocol of the Node.js server alone,
so any server of that protocol can be measured. The engine shows nothing: it tells a callable how it gets on.
"""
