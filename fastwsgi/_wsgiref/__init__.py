"""The part of the server that only simple_server uses: find overridden hooks, choose the path, call the hooks."""
