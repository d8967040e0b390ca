// What Android 11 and later refuse to adb's shell in the folders of apps, /sdcard/Android/data/PACKAGE.
//
// Built twice. As a library, it is preloaded into adbd and toybox. As a program, with -DTOYBOX, it starts toybox so.
// What apps run, with STANDIN_APP set, may do all that the phone's file system allows.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#define LIBRARY "/usr/lib/app_folders.so"

#ifdef TOYBOX
int main(int count, char **words) {
  setenv("LD_PRELOAD", LIBRARY, 1);
  execv("/usr/bin/toybox.real", words);
  return 127;
}
#else
#define DATA "/Android/data"

// What is started from here runs without this library, toybox apart.
__attribute__((constructor)) static void begin(void) { unsetenv("LD_PRELOAD"); }

// The directory that an entry is in, without symbolic links; of a descriptor without a path, what is open itself.
static int place(int directory, const char *path, char *found) {
  char at[PATH_MAX] = "", link[64];
  if (!path || path[0] != '/') {
    if (directory == AT_FDCWD)
      snprintf(link, sizeof link, "/proc/self/cwd");
    else
      snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    if (readlink(link, at, sizeof at - 1) < 0) return 0;
  }
  if (!path || !*path) return snprintf(found, PATH_MAX, "%s", at) > 0;
  size_t used = strlen(at);
  snprintf(at + used, sizeof at - used, "/%s", path);
  for (char *end = strrchr(at, '/'); end > at && !end[1]; end = strrchr(at, '/')) *end = 0;
  *strrchr(at, '/') = 0;
  return realpath(at, found) != NULL;
}

static int in_app(int directory, const char *path) {
  char found[PATH_MAX];
  return !getenv("STANDIN_APP") && place(directory, path, found) && strstr(found, DATA "/");
}

static int refused(int number) {
  errno = number;
  return -1;
}

static int there(int directory, const char *path) { return !faccessat(directory, path, F_OK, AT_SYMLINK_NOFOLLOW); }

// fchown by adb's sync protocol: "remote fchown failed: Operation not permitted".
int fchownat(int directory, const char *path, uid_t user, gid_t group, int flags) {
  if (in_app(directory, path)) return refused(EPERM);
  return syscall(SYS_fchownat, directory, path, user, group, flags);
}
int fchown(int file, uid_t user, gid_t group) {
  return in_app(file, NULL) ? refused(EPERM) : syscall(SYS_fchown, file, user, group);
}
int chown(const char *path, uid_t user, gid_t group) { return fchownat(AT_FDCWD, path, user, group, 0); }
int lchown(const char *path, uid_t user, gid_t group) {
  return fchownat(AT_FDCWD, path, user, group, AT_SYMLINK_NOFOLLOW);
}

// Times, other than by writing.
int utimensat(int directory, const char *path, const struct timespec *times, int flags) {
  if (in_app(directory, path)) return refused(EPERM);
  return syscall(SYS_utimensat, directory, path, times, flags);
}
int futimens(int file, const struct timespec *times) { return utimensat(file, NULL, times, 0); }
int utimes(const char *path, const struct timeval *times) {
  struct timespec both[2];
  for (int each = 0; times && each < 2; each++)
    both[each] = (struct timespec){times[each].tv_sec, times[each].tv_usec * 1000};
  return utimensat(AT_FDCWD, path, times ? both : NULL, 0);
}

// Removal of an entry: `rm: ...: Permission denied`. A rename removes one too, perhaps two.
int unlinkat(int directory, const char *path, int flags) {
  if (in_app(directory, path) && there(directory, path)) return refused(EACCES);
  return syscall(SYS_unlinkat, directory, path, flags);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
  if (in_app(from, old) || (in_app(to, new) && there(to, new))) return refused(EACCES);
  return syscall(SYS_renameat2, from, old, to, new, flags);
}
int renameat(int from, const char *old, int to, const char *new) { return renameat2(from, old, to, new, 0); }
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }

// The folder of an app that wasn't started yet: `mkdir: '/sdcard/Android/data/PACKAGE': Permission denied`.
int mkdirat(int directory, const char *path, mode_t mode) {
  char found[PATH_MAX];
  if (!getenv("STANDIN_APP") && !there(directory, path) && place(directory, path, found)) {
    size_t length = strlen(found), most = strlen(DATA);
    if (length >= most && !strcmp(found + length - most, DATA)) return refused(EACCES);
  }
  return syscall(SYS_mkdirat, directory, path, mode);
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
#endif
