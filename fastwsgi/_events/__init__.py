"""Sockets and time: the event-driven server, which both faces stand on."""
