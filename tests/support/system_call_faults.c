/* System calls that fail or do less than they were asked for, as a test wants it. To be preloaded; for 64-bit Linux.

   The file that SYSTEM_CALL_FAULTS names is mapped, and has the rules: struct rule, ROOMS times. Who has it mapped, too,
   changes them while the program runs, and reads how often each was applied. A rule whose call is 0 is none, so the
   call is written last and cleared first. With no rules, and for what no rule is about, all calls are as ever.

   The calls are made by syscall(), so that nothing needs to be looked up, and nothing is intercepted twice. The numbers
   of calls and kinds are known to system_call_faults.py, too. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ROOMS = 8, PIECES = 64, DESCRIPTORS = 4096 };
enum call { NONE, RECV, SEND, SENDMSG, SENDFILE, ACCEPT, EPOLL_ADD, EPOLL_MOD, OPEN, READ, WRITE, DUP, CLOSE };
/* SPOOLED: a file without a name, or one in TMPDIR. NAMED: a file that has a name. Neither is about 0, 1 and 2. */
enum kind { ANY, SOCKET, SPOOLED, NAMED };
/* Beside the numbers of errno: a transfer of fewer octets, which isn't an error. */
enum { SHORT = -1 };

struct rule {
    int call, kind, error, octets; /* octets: how many a shortened transfer has at most */
    unsigned skipped, every, most; /* so many calls are left alone, then every so many-th fails, so many at most */
    unsigned seen, applied;        /* calls, and of them those that were made to fail */
};

static struct rule no_rules[ROOMS], *rules = no_rules;
static char directory[4096];

/* What each descriptor was last watched for: see not_now(). */
static struct { int epoll; struct epoll_event event; } watched[DESCRIPTORS];

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("SYSTEM_CALL_FAULTS"), *temporary = getenv("TMPDIR");
    int fd = path ? (int) syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0) : -1;
    if (fd < 0)
        return;
    void *shared = mmap(NULL, sizeof no_rules, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (temporary && strlen(temporary) < sizeof directory)
        strcpy(directory, temporary);
    if (shared != MAP_FAILED)
        rules = shared;
}

static int is_of_kind(enum kind kind, int fd, const char *path)
{
    struct stat status;
    if (kind == ANY)
        return 1;
    if (path)
        return kind == (*directory && strncmp(path, directory, strlen(directory)) == 0 ? SPOOLED : NAMED);
    if (fd <= 2 || fstat(fd, &status) < 0)
        return 0;
    if (kind == SOCKET)
        return S_ISSOCK(status.st_mode);
    return S_ISREG(status.st_mode) && (kind == SPOOLED) == (status.st_nlink == 0);
}

/* What becomes of a call: 0, as ever; an errno; or SHORT, if it's to transfer more than *size, which is lowered. */
static int fault(enum call call, int fd, const char *path, size_t *size)
{
    for (struct rule *rule = rules; rule < rules + ROOMS; rule++) {
        if (__atomic_load_n(&rule->call, __ATOMIC_ACQUIRE) != (int) call)
            continue;
        int before = errno, fits = is_of_kind(rule->kind, fd, path);
        errno = before;
        if (!fits || (rule->error == SHORT && (!size || *size <= (size_t) rule->octets)))
            continue;
        unsigned number = __atomic_add_fetch(&rule->seen, 1, __ATOMIC_RELAXED);
        if (number <= rule->skipped || (number - rule->skipped - 1) % rule->every)
            continue;
        if (__atomic_add_fetch(&rule->applied, 1, __ATOMIC_RELAXED) > rule->most) {
            __atomic_sub_fetch(&rule->applied, 1, __ATOMIC_RELAXED);
            continue;
        }
        if (rule->error == SHORT)
            *size = rule->octets;
        return rule->error;
    }
    return 0;
}

#define FAIL_OR(call, fd, path, size)            \
    do {                                         \
        int error = fault(call, fd, path, size); \
        if (error > 0)                           \
            return errno = error, -1;            \
    } while (0)

/* "Not now" is only said of an empty socket, and who comes back is told of what comes. So octets that are there already
   have to be reported anew, as if they had come just after the call: an edge-triggered epoll had reported them before. */
static ssize_t not_now(int fd)
{
    if (fd >= 0 && fd < DESCRIPTORS && watched[fd].epoll && watched[fd].event.events & EPOLLET)
        syscall(SYS_epoll_ctl, watched[fd].epoll, EPOLL_CTL_MOD, fd, &watched[fd].event);
    return errno = EAGAIN, -1;
}

ssize_t recvfrom(int fd, void *room, size_t size, int flags, struct sockaddr *from, socklen_t *length)
{
    int error = fault(RECV, fd, NULL, &size);
    if (error > 0)
        return error == EAGAIN ? not_now(fd) : (errno = error, -1);
    return syscall(SYS_recvfrom, fd, room, size, flags, from, length);
}

ssize_t recv(int fd, void *room, size_t size, int flags)
{
    return recvfrom(fd, room, size, flags, NULL, NULL);
}

/* What recv() is with _FORTIFY_SOURCE. */
ssize_t __recv_chk(int fd, void *room, size_t size, size_t most, int flags)
{
    return size > most ? (abort(), -1) : recv(fd, room, size, flags);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length)
{
    FAIL_OR(SEND, fd, NULL, &size);
    return syscall(SYS_sendto, fd, data, size, flags, to, length);
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    return sendto(fd, data, size, flags, NULL, 0);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    struct msghdr shorter = *message;
    struct iovec pieces[PIECES];
    size_t size = 0, i;
    for (i = 0; i < message->msg_iovlen; i++)
        size += message->msg_iov[i].iov_len;
    FAIL_OR(SENDMSG, fd, NULL, &size);
    for (i = 0; i < message->msg_iovlen && i < PIECES && size; i++) {
        pieces[i] = message->msg_iov[i];
        if (pieces[i].iov_len > size)
            pieces[i].iov_len = size;
        size -= pieces[i].iov_len;
    }
    shorter.msg_iov = pieces;
    shorter.msg_iovlen = i;
    return syscall(SYS_sendmsg, fd, &shorter, flags);
}

ssize_t sendfile64(int to, int from, off64_t *offset, size_t count)
{
    FAIL_OR(SENDFILE, to, NULL, &count);
    return syscall(SYS_sendfile, to, from, offset, count);
}

ssize_t sendfile(int to, int from, off_t *offset, size_t count)
{
    _Static_assert(sizeof(off_t) == sizeof(off64_t), "a 64-bit system");
    return sendfile64(to, from, offset, count);
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    FAIL_OR(ACCEPT, fd, NULL, NULL);
    return (int) syscall(SYS_accept4, fd, address, length, flags);
}

int accept(int fd, struct sockaddr *address, socklen_t *length)
{
    return accept4(fd, address, length, 0);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    if (operation != EPOLL_CTL_DEL)
        FAIL_OR(operation == EPOLL_CTL_ADD ? EPOLL_ADD : EPOLL_MOD, fd, NULL, NULL);
    int result = (int) syscall(SYS_epoll_ctl, epoll, operation, fd, event);
    if (result == 0 && fd < DESCRIPTORS) {
        watched[fd].epoll = operation == EPOLL_CTL_DEL ? 0 : epoll;
        if (operation != EPOLL_CTL_DEL)
            watched[fd].event = *event;
    }
    return result;
}

#define OPEN_FILE(name, parameters, folder)                                 \
    int name parameters                                                     \
    {                                                                       \
        va_list rest;                                                       \
        va_start(rest, flags);                                              \
        int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0; \
        va_end(rest);                                                       \
        FAIL_OR(OPEN, -1, path, NULL);                                      \
        return (int) syscall(SYS_openat, folder, path, flags, mode);        \
    }

OPEN_FILE(openat, (int folder, const char *path, int flags, ...), folder)
OPEN_FILE(openat64, (int folder, const char *path, int flags, ...), folder)
OPEN_FILE(open, (const char *path, int flags, ...), AT_FDCWD)
OPEN_FILE(open64, (const char *path, int flags, ...), AT_FDCWD)

ssize_t read(int fd, void *room, size_t size)
{
    FAIL_OR(READ, fd, NULL, &size);
    return syscall(SYS_read, fd, room, size);
}

ssize_t write(int fd, const void *data, size_t size)
{
    FAIL_OR(WRITE, fd, NULL, &size);
    return syscall(SYS_write, fd, data, size);
}

#define CONTROL(name)                                        \
    int name(int fd, int command, ...)                       \
    {                                                        \
        va_list rest;                                        \
        va_start(rest, command);                             \
        void *argument = va_arg(rest, void *);               \
        va_end(rest);                                        \
        if (command == F_DUPFD_CLOEXEC)                      \
            FAIL_OR(DUP, fd, NULL, NULL);                    \
        return (int) syscall(SYS_fcntl, fd, command, argument); \
    }

CONTROL(fcntl)
CONTROL(fcntl64)

int close(int fd)
{
    int error = fault(CLOSE, fd, NULL, NULL); /* looked at while it's open; it's closed, whatever is said of it */
    if (fd >= 0 && fd < DESCRIPTORS)
        watched[fd].epoll = 0;
    int result = (int) syscall(SYS_close, fd);
    return result == 0 && error > 0 ? (errno = error, -1) : result;
}
