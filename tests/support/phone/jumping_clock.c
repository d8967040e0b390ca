// A library to preload: the wall clock jumps by two years at every call. Steady clocks stay steady, and the boot clock
// gains a second at every call if $SUSPENDED is set, as if the phone had slept.
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int calls;
  int failed = syscall(SYS_clock_gettime, clock, now);
  if (!failed && clock == CLOCK_REALTIME) now->tv_sec += (calls++ % 2 ? 1 : -1) * 365 * 86400;
  if (!failed && clock == CLOCK_BOOTTIME && getenv("SUSPENDED")) now->tv_sec += calls++;
  return failed;
}

time_t time(time_t *seconds) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (seconds) *seconds = now.tv_sec;
  return now.tv_sec;
}

int gettimeofday(struct timeval *restrict day, void *restrict zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  day->tv_sec = now.tv_sec;
  day->tv_usec = now.tv_nsec / 1000;
  return 0;
}
