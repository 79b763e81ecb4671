"""How far an event loop is with stopping: one phase after the other, and never back."""

#: Clients are accepted, and connections are kept between requests.
SERVING = 0
#: Clients are accepted, and each connection is closed after the request that it is at.
LAST_REQUESTS = 1
#: The same, and what runs the loop is to return from serving.
ASKED_TO_STOP = 2
#: Nobody is accepted any more.
RETIRED = 3
#: Nobody is waited for any more.
STOPPED = 4
