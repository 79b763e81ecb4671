"""The server behind ``make_server``; private."""
