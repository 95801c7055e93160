"""The search driver: what to try next (``strategy``), trying it (``loop``), and when to stop (``budget``)."""
