"""The search driver: what to try next (``ladder``), trying it (``loop``), and when to stop (``budget``)."""
