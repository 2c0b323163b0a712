// A disk that fails and a clock that jumps, by preload: what files below FAULTS_FOLDER are asked to do, and what the
// machine's wall clock says, is changed as the numbers in the file FAULTS_CONTROL say. Tests write them while a broker runs.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

// The places of the numbers; `preload.rs` has the same.
enum { WRITE_ERRNO, SYNC_ERRNO, READ_ERRNO, OPEN_ERRNO, SHORT, EINTR_STORM, SYNC_MS, CLOCK_S, WRITES_LEFT, INJECTED, PLACES };

static volatile int64_t *place;
static const char *folder;
static size_t folder_len;

__attribute__((constructor)) static void start(void) {
    const char *control = getenv("FAULTS_CONTROL");
    folder = getenv("FAULTS_FOLDER");
    if (!control || !folder) return;
    folder_len = strlen(folder);
    int fd = open(control, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *at = mmap(NULL, PLACES * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED) place = at;
}

static int64_t told(int n) { return place ? __atomic_load_n(&place[n], __ATOMIC_SEQ_CST) : 0; }
static void count(void) { __atomic_add_fetch(&place[INJECTED], 1, __ATOMIC_SEQ_CST); }

// Only files of the store: those below the folder that begin so, not the log nor the reserve.
static int is_ours(const char *path) {
    if (strncmp(path, folder, folder_len) != 0 || path[folder_len] != '/') return 0;
    const char *name = path + folder_len + 1;
    return strncmp(name, "store.redb", 10) == 0 || strstr(name, "journal") != NULL;
}

static int ours(int fd) {
    if (!place) return 0;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return is_ours(path);
}

// Every second call is interrupted before it did anything.
static int interrupted(void) {
    static __thread unsigned calls;
    if (!told(EINTR_STORM) || calls++ % 2) return 0;
    count();
    errno = EINTR;
    return 1;
}

static int fails(int which) {
    int64_t e = told(which);
    if (!e) return 0;
    if (which == WRITE_ERRNO && __atomic_sub_fetch(&place[WRITES_LEFT], 1, __ATOMIC_SEQ_CST) >= 0) return 0;
    count();
    errno = (int)e;
    return 1;
}

static size_t part(size_t n) {
    if (!told(SHORT) || n < 2) return n;
    count();
    return 1 + n / 3;
}

#define REAL(type, name) \
    static __typeof__(type) real; \
    if (!real) real = (__typeof__(type))dlsym(RTLD_NEXT, name)

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) {
    REAL(ssize_t (*)(int, const void *, size_t, off64_t), "pwrite64");
    if (ours(fd)) {
        if (interrupted() || fails(WRITE_ERRNO)) return -1;
        n = part(n);
    }
    return real(fd, bytes, n, at);
}
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) { return pwrite64(fd, bytes, n, at); }

ssize_t write(int fd, const void *bytes, size_t n) {
    REAL(ssize_t (*)(int, const void *, size_t), "write");
    if (ours(fd)) {
        if (interrupted() || fails(WRITE_ERRNO)) return -1;
        n = part(n);
    }
    return real(fd, bytes, n);
}

ssize_t pread64(int fd, void *bytes, size_t n, off64_t at) {
    REAL(ssize_t (*)(int, void *, size_t, off64_t), "pread64");
    if (ours(fd)) {
        if (interrupted() || fails(READ_ERRNO)) return -1;
        n = part(n);
    }
    return real(fd, bytes, n, at);
}
ssize_t pread(int fd, void *bytes, size_t n, off_t at) { return pread64(fd, bytes, n, at); }

ssize_t read(int fd, void *bytes, size_t n) {
    REAL(ssize_t (*)(int, void *, size_t), "read");
    if (ours(fd)) {
        if (interrupted() || fails(READ_ERRNO)) return -1;
        n = part(n);
    }
    return real(fd, bytes, n);
}

int ftruncate64(int fd, off64_t len) {
    REAL(int (*)(int, off64_t), "ftruncate64");
    if (ours(fd) && (interrupted() || fails(WRITE_ERRNO))) return -1;
    return real(fd, len);
}
int ftruncate(int fd, off_t len) { return ftruncate64(fd, len); }

static int before_sync(int fd) {
    if (!ours(fd)) return 0;
    int64_t ms = told(SYNC_MS);
    if (ms) {
        count();
        struct timespec t = {ms / 1000, ms % 1000 * 1000000};
        nanosleep(&t, NULL);
    }
    return interrupted() || fails(SYNC_ERRNO);
}

int fsync(int fd) {
    REAL(int (*)(int), "fsync");
    return before_sync(fd) ? -1 : real(fd);
}

int fdatasync(int fd) {
    REAL(int (*)(int), "fdatasync");
    return before_sync(fd) ? -1 : real(fd);
}

static int refused(const char *path, int flags) {
    return place && (flags & O_ACCMODE) != O_RDONLY && is_ours(path) && fails(OPEN_ERRNO);
}

int open64(const char *path, int flags, ...) {
    REAL(int (*)(const char *, int, ...), "open64");
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    return refused(path, flags) ? -1 : real(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    REAL(int (*)(const char *, int, ...), "open");
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    return refused(path, flags) ? -1 : real(path, flags, mode);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(int (*)(clockid_t, struct timespec *), "clock_gettime");
    int done = real(clock, now);
    if (done == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += told(CLOCK_S);
    return done;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    REAL(int (*)(struct timeval *restrict, void *restrict), "gettimeofday");
    int done = real(now, zone);
    if (done == 0) now->tv_sec += told(CLOCK_S);
    return done;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
