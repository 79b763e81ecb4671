"""The phases in which an event loop stops; it never goes back to an earlier one."""

#: Clients are accepted, and connections stay open between requests.
SERVING = 0
#: Clients are accepted, and each connection is closed after its current request.
LAST_REQUESTS = 1
#: The same, and the call that runs the loop must return.
ASKED_TO_STOP = 2
#: No more clients are accepted.
RETIRED = 3
#: The loop no longer waits for any client.
STOPPED = 4
