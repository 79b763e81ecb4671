"""The production face of the event-driven server: ``fastwsgi.serve()`` and ``python -m fastwsgi``; private."""
