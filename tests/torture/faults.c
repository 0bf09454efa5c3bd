/* Stands between a process and the system (LD_PRELOAD): counts what it does to files below one folder, and at the n-th
   such call kills, signals, fails or cuts it short, whichever library asked. Calls with O_TMPFILE, sendfile or a map
   are not counted: the three stages make none. fsync is counted and not passed on, since no trial cuts the power. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, KILL_BEFORE, KILL_AFTER, KILL_HALF, FAIL_ONCE, FAIL_FROM_HERE, SHORT, SIGNAL };
enum { GO, FAIL, THEN_DIE, HALF_THEN_DIE, HALF };

struct plan {
    int armed, action, value, log;
    long target;
    atomic_long count;
    pid_t leader;
    char watched[PATH_MAX];
};

#define MOST_FILES 4096
static struct plan *plan; /* shared by all processes that were forked from one */
static char name_of[MOST_FILES][256]; /* of a watched open file, below the folder; "" for any other */

__attribute__((constructor)) static void begin(void) {
    plan = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

/* From here on, for this process and those it forks. log: a file descriptor for a line a call, or -1. */
void torture_arm(const char *watched, long target, int action, int value, int log) {
    plan->armed = 0;
    strncpy(plan->watched, watched, PATH_MAX - 1);
    plan->target = target, plan->action = action, plan->value = value, plan->log = log;
    plan->leader = getpid();
    atomic_store(&plan->count, 0);
    plan->armed = 1;
}

long torture_disarm(void) {
    plan->armed = 0;
    return atomic_load(&plan->count);
}

static void die(void) {
    kill(plan->leader, SIGKILL);
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* The path below the watched folder, or NULL. */
static const char *below(int folder, const char *path, char *space) {
    if (!plan || !plan->armed) return NULL;
    if (path[0] != '/') {
        char link[64];
        snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        long length = readlink(link, space, PATH_MAX - 1);
        if (length < 0 || length + strlen(path) + 2 > PATH_MAX) return NULL;
        space[length] = '/';
        strcpy(space + length + 1, path);
        path = space;
    }
    size_t length = strlen(plan->watched);
    return strncmp(path, plan->watched, length) == 0 && path[length] == '/' ? path + length + 1 : NULL;
}

/* Count one call and say what becomes of it. needs_space: a full disk refuses it. */
static int meet(const char *call, const char *path, int needs_space) {
    int logs = strstr(path, "tensorboard") != NULL; /* written by a thread, at no fixed moment */
    long number = logs ? 0 : atomic_fetch_add(&plan->count, 1) + 1;
    if (plan->log >= 0 && !logs) {
        char line[512];
        int length = snprintf(line, sizeof line, "%s %s\n", call, path);
        syscall(SYS_write, plan->log, line, (size_t)length);
    }
    if (plan->action == FAIL_FROM_HERE && needs_space) {
        int full = logs ? atomic_load(&plan->count) >= plan->target : number >= plan->target;
        if (full) return FAIL;
    }
    if (number != plan->target) return GO;
    switch (plan->action) {
    case KILL_BEFORE: die();
    case KILL_AFTER: return THEN_DIE;
    case KILL_HALF: return HALF_THEN_DIE;
    case FAIL_ONCE: return FAIL;
    case SHORT: return HALF;
    case SIGNAL: kill(plan->leader, plan->value);
    }
    return GO;
}

static long done(int fate, long result) {
    if (fate == THEN_DIE || fate == HALF_THEN_DIE) die();
    return result;
}

static long refused(void) {
    errno = plan->value;
    return -1;
}

static int open_at(int folder, const char *path, int flags, mode_t mode) {
    char space[PATH_MAX];
    const char *name = below(folder, path, space);
    int fate = GO;
    if (name && (flags & (O_CREAT | O_TRUNC)) && (fate = meet("open", name, 1)) == FAIL) return refused();
    int file = syscall(SYS_openat, folder, path, flags, mode);
    if (name && file >= 0 && file < MOST_FILES) strncpy(name_of[file], name, 255);
    return done(fate, file);
}

#define OPEN(NAME, FIRST, FOLDER)                       \
    int NAME(FIRST const char *path, int flags, ...) {  \
        va_list rest;                                   \
        va_start(rest, flags);                          \
        mode_t mode = va_arg(rest, mode_t);             \
        va_end(rest);                                   \
        return open_at(FOLDER, path, flags, mode);      \
    }
#define FOLDER_FIRST int folder,
OPEN(open, , AT_FDCWD)
OPEN(open64, , AT_FDCWD)
OPEN(openat, FOLDER_FIRST, folder)
OPEN(openat64, FOLDER_FIRST, folder)

static const char *watched(int file) {
    int known = plan && plan->armed && file >= 0 && file < MOST_FILES && name_of[file][0];
    return known ? name_of[file] : NULL;
}

int close(int file) {
    if (file >= 0 && file < MOST_FILES) name_of[file][0] = 0;
    return syscall(SYS_close, file);
}

ssize_t write(int file, const void *data, size_t size) {
    const char *name = watched(file);
    int fate = name ? meet("write", name, 1) : GO;
    if (fate == FAIL) return refused();
    if (fate == HALF || fate == HALF_THEN_DIE) size = (size + 1) / 2;
    return done(fate, syscall(SYS_write, file, data, size));
}

static ssize_t write_at(int file, const void *data, size_t size, off_t place) {
    const char *name = watched(file);
    int fate = name ? meet("write", name, 1) : GO;
    if (fate == FAIL) return refused();
    if (fate == HALF || fate == HALF_THEN_DIE) size = (size + 1) / 2;
    return done(fate, syscall(SYS_pwrite64, file, data, size, place));
}
ssize_t pwrite(int file, const void *data, size_t size, off_t place) { return write_at(file, data, size, place); }
ssize_t pwrite64(int file, const void *data, size_t size, off_t place) { return write_at(file, data, size, place); }

ssize_t writev(int file, const struct iovec *parts, int count) {
    const char *name = watched(file);
    int fate = name ? meet("write", name, 1) : GO;
    if (fate == FAIL) return refused();
    return done(fate, syscall(SYS_writev, file, parts, count));
}

static int synced(int file, int call) {
    const char *name = watched(file);
    if (!name) return syscall(call, file);
    int fate = meet("fsync", name, 1);
    return fate == FAIL ? refused() : done(fate, 0);
}
int fsync(int file) { return synced(file, SYS_fsync); }
int fdatasync(int file) { return synced(file, SYS_fdatasync); }

static int cut(int file, off_t size) {
    const char *name = watched(file);
    int fate = name ? meet("truncate", name, 1) : GO;
    return fate == FAIL ? refused() : done(fate, syscall(SYS_ftruncate, file, size));
}
int ftruncate(int file, off_t size) { return cut(file, size); }
int ftruncate64(int file, off_t size) { return cut(file, size); }

int renameat(int from, const char *source, int to, const char *target) {
    char space[PATH_MAX];
    const char *name = below(to, target, space);
    int fate = name ? meet("rename", name, 1) : GO;
    return fate == FAIL ? refused() : done(fate, syscall(SYS_renameat2, from, source, to, target, 0));
}
int rename(const char *source, const char *target) { return renameat(AT_FDCWD, source, AT_FDCWD, target); }

int mkdirat(int folder, const char *path, mode_t mode) {
    char space[PATH_MAX];
    const char *name = below(folder, path, space);
    int fate = name ? meet("mkdir", name, 1) : GO;
    return fate == FAIL ? refused() : done(fate, syscall(SYS_mkdirat, folder, path, mode));
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int unlinkat(int folder, const char *path, int flags) {
    char space[PATH_MAX];
    const char *name = below(folder, path, space);
    int fate = name ? meet("remove", name, 0) : GO;
    return fate == FAIL ? refused() : done(fate, syscall(SYS_unlinkat, folder, path, flags));
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
