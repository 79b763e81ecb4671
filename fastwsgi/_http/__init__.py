"""Octets in, values out: the grammar, framing and bodies of HTTP/1.1, without sockets and without a clock."""
