/* The floor under every server: one thread, epoll, a constant answer, and no HTTP but the end of a head.

       cc -O2 -o floor floor.c && ./floor PORT

   What this costs a request is the kernel's share, which no server can save. Connections are kept alive,
   bodies are not read, and a client must wait for its answer before it sends the next head. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS = 1024, HEAD = 8192, EVENTS = 64 };

/* As many bytes as fastwsgi's answer to the same request has. */
static const char answer[] =
    "HTTP/1.1 200 OK\r\n"
    "Date: Mon, 05 Jun 2006 18:49:54 GMT\r\n"
    "Server: WSGIServer/0.2 CPython/3.11.7\r\n"
    "Content-Type: text/plain\r\n"
    "Content-Length: 13\r\n"
    "\r\n"
    "Hello, world!";

static char heads[CONNECTIONS][HEAD]; /* what has come of each connection's head, by descriptor */
static size_t lengths[CONNECTIONS];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int listen_on(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024))
        fail("listen");
    return listener;
}

static void watch(int poller, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
        fail("epoll_ctl");
}

static void read_and_answer(int fd) {
    ssize_t count = recv(fd, heads[fd] + lengths[fd], HEAD - lengths[fd], 0);
    if (count <= 0) { /* the client has gone, or its head is longer than HEAD */
        close(fd);
        return;
    }
    lengths[fd] += count;
    if (memmem(heads[fd], lengths[fd], "\r\n\r\n", 4)) {
        lengths[fd] = 0;
        if (send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL) != sizeof answer - 1)
            close(fd);
    }
}

int main(int argc, char **argv) {
    int listener = listen_on(argc > 1 ? atoi(argv[1]) : 8000), poller = epoll_create1(0);
    struct epoll_event events[EVENTS];
    watch(poller, listener);
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                read_and_answer(fd);
            } else if ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= CONNECTIONS) {
                close(fd);
            } else if (fd >= 0) {
                lengths[fd] = 0;
                watch(poller, fd);
            }
        }
    }
}
