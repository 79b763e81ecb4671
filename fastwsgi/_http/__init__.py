"""HTTP/1.1 without sockets and without a clock: grammar, framing and bodies, as functions of octets."""
