/* Loaded before all else into the process that runs bench/counted.py under callgrind. */

#include <time.h>
#include <valgrind/callgrind.h>

/* Time stands still: what a server does once a second, would else be in some rounds and not in others. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
    (void) clock;
    now->tv_sec = 1700000000;
    now->tv_nsec = 0;
    return 0;
}

int is_counted(void) { return RUNNING_ON_VALGRIND != 0; }

/* From here on code is instrumented; before, it only runs, which is much faster. */
void instrument(void) { CALLGRIND_START_INSTRUMENTATION; }

/* Begin to count, or stop. */
void toggle(void) { CALLGRIND_TOGGLE_COLLECT; }

void zero(void) { CALLGRIND_ZERO_STATS; }

/* Write what was counted to a file that bears this name. */
void dump(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
