/* A disk that fails, for the tests: loaded before the C library (LD_PRELOAD), it lets every n-th call fail that a daemon
 * makes on its spool's file and log. A file that is mapped, named by FAILING_DISK, says which calls, and how. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

enum { NOTHING, WRITE_EIO, WRITE_ENOSPC, WRITE_SHORT, READ_EIO, SYNC_EIO, TRUNCATE_EIO, ANY_EIO };

struct control {
    int what; /* one of the above */
    int nth;  /* each so manieth call */
    int calls;
    int failed;
};

static struct control nothing;
static volatile struct control *control = &nothing;

#define FDS 4096
static char watched[FDS];

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAILING_DISK");
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    int fd = path && real ? real(path, O_RDWR) : -1;
    if (fd < 0) return;
    void *map = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED) control = map;
}

static void watch(int fd, const char *path) {
    const char *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    if (fd >= 0 && fd < FDS)
        watched[fd] = !strcmp(name, "spool.db") || !strcmp(name, "spool.db-wal") || !strcmp(name, "spool.db-journal");
}

/* Whether this call on `fd` fails, which it does if `what` is one of two. */
static int fails(int fd, int one, int other) {
    int what = control->what;
    if (fd < 0 || fd >= FDS || !watched[fd] || (what != one && what != other)) return 0;
    int call = __atomic_add_fetch(&control->calls, 1, __ATOMIC_SEQ_CST);
    if (call % control->nth != 0) return 0;
    __atomic_add_fetch(&control->failed, 1, __ATOMIC_SEQ_CST);
    return 1;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = dlsym(RTLD_NEXT, #name)

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        int fd = real(path, flags, mode); \
        watch(fd, path); \
        return fd; \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    REAL(int, close, int);
    if (fd >= 0 && fd < FDS) watched[fd] = 0;
    return real(fd);
}

/* What a failing write does: an error, or half of it and then none. */
#define WRITE(name, real_call) \
    if (fails(fd, WRITE_EIO, ANY_EIO)) { errno = EIO; return -1; } \
    if (fails(fd, WRITE_ENOSPC, WRITE_ENOSPC)) { errno = ENOSPC; return -1; } \
    if (bytes > 1 && fails(fd, WRITE_SHORT, WRITE_SHORT)) bytes /= 2; \
    return real_call

ssize_t write(int fd, const void *from, size_t bytes) {
    REAL(ssize_t, write, int, const void *, size_t);
    WRITE(write, real(fd, from, bytes));
}
ssize_t pwrite(int fd, const void *from, size_t bytes, off_t at) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    WRITE(pwrite, real(fd, from, bytes, at));
}
ssize_t pwrite64(int fd, const void *from, size_t bytes, off64_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    WRITE(pwrite64, real(fd, from, bytes, at));
}

#define FAIL(one, other) if (fails(fd, one, other)) { errno = EIO; return -1; }

ssize_t read(int fd, void *to, size_t bytes) {
    REAL(ssize_t, read, int, void *, size_t);
    FAIL(READ_EIO, ANY_EIO)
    return real(fd, to, bytes);
}
ssize_t pread(int fd, void *to, size_t bytes, off_t at) {
    REAL(ssize_t, pread, int, void *, size_t, off_t);
    FAIL(READ_EIO, ANY_EIO)
    return real(fd, to, bytes, at);
}
ssize_t pread64(int fd, void *to, size_t bytes, off64_t at) {
    REAL(ssize_t, pread64, int, void *, size_t, off64_t);
    FAIL(READ_EIO, ANY_EIO)
    return real(fd, to, bytes, at);
}
int fsync(int fd) {
    REAL(int, fsync, int);
    FAIL(SYNC_EIO, ANY_EIO)
    return real(fd);
}
int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    FAIL(SYNC_EIO, ANY_EIO)
    return real(fd);
}
int ftruncate(int fd, off_t bytes) {
    REAL(int, ftruncate, int, off_t);
    FAIL(TRUNCATE_EIO, ANY_EIO)
    return real(fd, bytes);
}
int ftruncate64(int fd, off64_t bytes) {
    REAL(int, ftruncate64, int, off64_t);
    FAIL(TRUNCATE_EIO, ANY_EIO)
    return real(fd, bytes);
}
