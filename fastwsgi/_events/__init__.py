"""Sockets and time: the event-driven server, which simple_server and serve() share."""
