/* Records what a process does to the files under one folder, and what it says on the network.
 *
 * Loaded with LD_PRELOAD. Each call is carried out and then appended to the log as one record, by
 * one write to a file opened with O_APPEND, so that the records of all threads and processes stand
 * in one order. Two calls are noted before they are carried out: the beginning of a sync (what was
 * written after it is not covered by it) and a send (the peer may have the answer from then on).
 * So the log never says that something was durable earlier, or answered later, than it was.
 *
 * Not seen: writes through mmap, io_uring and system calls made without the C library. SQLite's
 * shared memory (-shm) is such a file; it is made anew after a crash.
 *
 * LIMNER_RECORD_LOG   the log; nothing is recorded without it
 * LIMNER_RECORD_ROOT  the folder whose files are recorded, an absolute path without links
 * LIMNER_LOSE_SYNCS   if set, fsync and fdatasync claim success and do nothing, and no file is
 *                     opened so that writing waits for the disk
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    OPENED = 1, WRITTEN, TRUNCATED, ALLOCATED, SYNC_BEGUN, SYNCED, RENAMED, REMOVED, FOLDER_MADE,
    LINKED, SENT
};

#define DURABLE 1u  /* WRITTEN: by a descriptor or a flag that makes the call wait for the disk */
#define ZEROED 2u   /* the range reads as zeros afterwards, whatever it was; there is no data */
#define KEEP_SIZE 4u
#define MOST_PIECES 1026

struct record {  /* little endian, as the reader in recording.py has it */
    uint32_t kind, flags;
    uint64_t task;  /* the thread */
    uint64_t inode;
    int64_t offset, length;
    uint32_t path_bytes, second_path_bytes;
    uint64_t data_bytes;  /* `length`, or 0 for zeros */
};

static const char *log_path, *root;
static size_t root_bytes;
static int lose_syncs;

__attribute__((constructor)) static void begin(void) {
    log_path = getenv("LIMNER_RECORD_LOG");
    root = getenv("LIMNER_RECORD_ROOT");
    root_bytes = root ? strlen(root) : 0;
    lose_syncs = getenv("LIMNER_LOSE_SYNCS") != NULL;
}

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

static int recording(void) { return log_path && root; }

static int below_root(const char *path) {
    return strncmp(path, root, root_bytes) == 0 && (path[root_bytes] == '/' || !path[root_bytes]);
}

static void append(struct record *record, const char *path, const char *second_path,
                   const struct iovec *data, int pieces, size_t data_bytes) {
    int saved = errno;
    struct iovec all[MOST_PIECES + 3];
    int count = 0;
    record->task = (uint64_t)syscall(SYS_gettid);
    record->path_bytes = path ? strlen(path) : 0;
    record->second_path_bytes = second_path ? strlen(second_path) : 0;
    record->data_bytes = data_bytes;
    all[count++] = (struct iovec){record, sizeof *record};
    if (path) all[count++] = (struct iovec){(void *)path, record->path_bytes};
    if (second_path) all[count++] = (struct iovec){(void *)second_path, record->second_path_bytes};
    for (int piece = 0; piece < pieces && data_bytes; piece++) {
        size_t bytes = data[piece].iov_len < data_bytes ? data[piece].iov_len : data_bytes;
        if (count == MOST_PIECES + 3) abort();
        all[count++] = (struct iovec){data[piece].iov_base, bytes};
        data_bytes -= bytes;
    }
    size_t wanted = 0;
    for (int piece = 0; piece < count; piece++) wanted += all[piece].iov_len;
    int log = syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC,
                      0600);
    if (log < 0 || syscall(SYS_writev, log, all, count) != (long)wanted) abort();
    syscall(SYS_close, log);
    errno = saved;
}

/* The path of an open file, or 0 when it is none of ours. */
static int path_of(int descriptor, char path[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t bytes = readlink(link, path, PATH_MAX - 1);
    if (bytes < 0) return 0;
    path[bytes] = 0;
    return below_root(path);
}

/* An absolute path for what a call names relative to a folder, or 0 when it is none of ours. */
static int absolute(int folder, const char *name, char path[PATH_MAX]) {
    char base[PATH_MAX];
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return 0;
        if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) abort();
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t bytes = readlink(link, base, sizeof base - 1);
        if (bytes < 0) return 0;
        base[bytes] = 0;
        if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) abort();
    }
    return below_root(path);
}

static uint64_t inode_of(int descriptor) {
    struct stat status;
    return fstat(descriptor, &status) ? 0 : status.st_ino;
}

static int all_zeros(const struct iovec *data, int pieces) {
    for (int piece = 0; piece < pieces; piece++) {
        const char *bytes = data[piece].iov_base;
        size_t count = data[piece].iov_len;
        if (count && (bytes[0] || memcmp(bytes, bytes + 1, count - 1))) return 0;
    }
    return 1;
}

static void note_data(int descriptor, const struct iovec *data, int pieces, int64_t offset,
                      ssize_t done, int flags) {
    char path[PATH_MAX];
    if (!recording() || done <= 0 || !path_of(descriptor, path)) return;
    struct record record = {.kind = WRITTEN, .inode = inode_of(descriptor), .length = done};
    record.offset = offset >= 0 ? offset : lseek(descriptor, 0, SEEK_CUR) - done;
    if (flags & (RWF_DSYNC | RWF_SYNC) || fcntl(descriptor, F_GETFL) & O_DSYNC)
        record.flags = DURABLE;
    int zeros = all_zeros(data, pieces);
    if (zeros) record.flags |= ZEROED;
    append(&record, path, NULL, data, pieces, zeros ? 0 : done);
}

static void note_send(int descriptor, const struct iovec *data, int pieces) {
    int domain = 0, saved = errno;
    socklen_t bytes = sizeof domain;
    if (!recording()) return;
    int is_socket = !getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &domain, &bytes);
    errno = saved;
    if (!is_socket || (domain != AF_INET && domain != AF_INET6)) return;
    size_t all = 0;
    for (int piece = 0; piece < pieces; piece++) all += data[piece].iov_len;
    struct record record = {.kind = SENT, .inode = inode_of(descriptor), .length = all};
    append(&record, NULL, NULL, data, pieces, all);
}

static void note_name(int kind, int folder, const char *name, int second_folder,
                      const char *second_name) {
    char path[PATH_MAX], second[PATH_MAX] = "";
    if (!recording()) return;
    int ours = absolute(folder, name, path);
    if (second_name) ours |= absolute(second_folder, second_name, second);
    if (!ours) return;
    struct stat status = {0};
    if (kind == FOLDER_MADE) lstat(path, &status);
    struct record record = {.kind = kind, .inode = status.st_ino};
    append(&record, path, second_name ? second : NULL, NULL, 0, 0);
}

/* --- names ------------------------------------------------------------------------------------ */

static int note_open(int descriptor, int flags) {
    char path[PATH_MAX];
    if (descriptor < 0 || !recording() || !(flags & (O_CREAT | O_TRUNC))) return descriptor;
    if (!path_of(descriptor, path)) return descriptor;
    struct record record = {.kind = OPENED, .inode = inode_of(descriptor)};
    append(&record, path, NULL, NULL, 0, 0);
    if (flags & O_TRUNC) {
        record.kind = TRUNCATED;
        append(&record, path, NULL, NULL, 0, 0);
    }
    return descriptor;
}

static mode_t mode_of(int flags, va_list rest) {
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

/* Without what makes writing wait for the disk, if syncs are to be lost. */
static int flags_of(int flags) { return lose_syncs ? flags & ~(O_DIRECT | O_SYNC) : flags; }

#define OPEN(name)                                               \
    int name(const char *path, int flags, ...) {                 \
        va_list rest;                                            \
        va_start(rest, flags);                                   \
        mode_t mode = mode_of(flags, rest);                      \
        va_end(rest);                                            \
        flags = flags_of(flags);                                 \
        return note_open(REAL(name)(path, flags, mode), flags);  \
    }
OPEN(open)
OPEN(open64)

#define OPEN_AT(name)                                                    \
    int name(int folder, const char *path, int flags, ...) {             \
        va_list rest;                                                    \
        va_start(rest, flags);                                           \
        mode_t mode = mode_of(flags, rest);                              \
        va_end(rest);                                                    \
        flags = flags_of(flags);                                         \
        return note_open(REAL(name)(folder, path, flags, mode), flags);  \
    }
OPEN_AT(openat)
OPEN_AT(openat64)

int rename(const char *from, const char *to) {
    int result = REAL(rename)(from, to);
    if (!result) note_name(RENAMED, AT_FDCWD, from, AT_FDCWD, to);
    return result;
}

int renameat(int folder, const char *from, int second_folder, const char *to) {
    int result = REAL(renameat)(folder, from, second_folder, to);
    if (!result) note_name(RENAMED, folder, from, second_folder, to);
    return result;
}

int link(const char *from, const char *to) {
    int result = REAL(link)(from, to);
    if (!result) note_name(LINKED, AT_FDCWD, from, AT_FDCWD, to);
    return result;
}

int unlink(const char *path) {
    int result = REAL(unlink)(path);
    if (!result) note_name(REMOVED, AT_FDCWD, path, 0, NULL);
    return result;
}

int unlinkat(int folder, const char *path, int flags) {
    int result = REAL(unlinkat)(folder, path, flags);
    if (!result) note_name(REMOVED, folder, path, 0, NULL);
    return result;
}

int rmdir(const char *path) {
    int result = REAL(rmdir)(path);
    if (!result) note_name(REMOVED, AT_FDCWD, path, 0, NULL);
    return result;
}

int mkdir(const char *path, mode_t mode) {
    int result = REAL(mkdir)(path, mode);
    if (!result) note_name(FOLDER_MADE, AT_FDCWD, path, 0, NULL);
    return result;
}

int mkdirat(int folder, const char *path, mode_t mode) {
    int result = REAL(mkdirat)(folder, path, mode);
    if (!result) note_name(FOLDER_MADE, folder, path, 0, NULL);
    return result;
}

/* --- bytes ------------------------------------------------------------------------------------ */

ssize_t write(int descriptor, const void *data, size_t bytes) {
    struct iovec whole = {(void *)data, bytes};
    note_send(descriptor, &whole, 1);
    ssize_t done = REAL(write)(descriptor, data, bytes);
    note_data(descriptor, &whole, 1, -1, done, 0);
    return done;
}

ssize_t writev(int descriptor, const struct iovec *data, int pieces) {
    note_send(descriptor, data, pieces);
    ssize_t done = REAL(writev)(descriptor, data, pieces);
    note_data(descriptor, data, pieces, -1, done, 0);
    return done;
}

#define PWRITE(name, offset_type)                                                       \
    ssize_t name(int descriptor, const void *data, size_t bytes, offset_type offset) {  \
        struct iovec whole = {(void *)data, bytes};                                     \
        ssize_t done = REAL(name)(descriptor, data, bytes, offset);                     \
        note_data(descriptor, &whole, 1, offset, done, 0);                              \
        return done;                                                                    \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define PWRITEV(name, offset_type)                                                              \
    ssize_t name(int descriptor, const struct iovec *data, int pieces, offset_type offset) {    \
        ssize_t done = REAL(name)(descriptor, data, pieces, offset);                            \
        note_data(descriptor, data, pieces, offset, done, 0);                                   \
        return done;                                                                            \
    }
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)

#define PWRITEV2(name, offset_type)                                                             \
    ssize_t name(int descriptor, const struct iovec *data, int pieces, offset_type offset,      \
                 int flags) {                                                                   \
        ssize_t done = REAL(name)(descriptor, data, pieces, offset, flags);                     \
        note_data(descriptor, data, pieces, offset, done, flags);                               \
        return done;                                                                            \
    }
PWRITEV2(pwritev2, off_t)
PWRITEV2(pwritev64v2, off64_t)

/* Bytes that never were in our memory: read back what has come to lie in the file. */
static void note_copied(int descriptor, int64_t offset, ssize_t done) {
    char path[PATH_MAX];
    if (!recording() || done <= 0 || !path_of(descriptor, path)) return;
    if (offset < 0) offset = lseek(descriptor, 0, SEEK_CUR) - done;
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    int reader = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    char *copy = malloc(done);
    if (reader < 0 || !copy || pread(reader, copy, done, offset) != done) abort();
    syscall(SYS_close, reader);
    struct iovec whole = {copy, done};
    note_data(descriptor, &whole, 1, offset, done, 0);
    free(copy);
}

ssize_t splice(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t bytes,
               unsigned flags) {
    ssize_t done = REAL(splice)(from, from_offset, to, to_offset, bytes, flags);
    note_copied(to, to_offset && done > 0 ? *to_offset - done : -1, done);
    return done;
}

ssize_t copy_file_range(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t bytes,
                        unsigned flags) {
    ssize_t done = REAL(copy_file_range)(from, from_offset, to, to_offset, bytes, flags);
    note_copied(to, to_offset && done > 0 ? *to_offset - done : -1, done);
    return done;
}

#define TRUNCATE(name, offset_type)                                                        \
    int name(int descriptor, offset_type length) {                                         \
        char path[PATH_MAX];                                                               \
        int result = REAL(name)(descriptor, length);                                       \
        if (!result && recording() && path_of(descriptor, path)) {                         \
            struct record record = {.kind = TRUNCATED, .inode = inode_of(descriptor)};     \
            record.length = length;                                                        \
            append(&record, path, NULL, NULL, 0, 0);                                       \
        }                                                                                  \
        return result;                                                                     \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

static void note_allocation(int descriptor, int mode, int64_t offset, int64_t length) {
    char path[PATH_MAX];
    if (!recording() || !path_of(descriptor, path)) return;
    if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_PUNCH_HOLE)) abort();
    struct record record = {.kind = ALLOCATED, .inode = inode_of(descriptor)};
    record.offset = offset;
    record.length = length;
    if (mode & (FALLOC_FL_ZERO_RANGE | FALLOC_FL_PUNCH_HOLE)) record.flags |= ZEROED;
    if (mode & FALLOC_FL_KEEP_SIZE) record.flags |= KEEP_SIZE;
    append(&record, path, NULL, NULL, 0, 0);
}

#define ALLOCATE(name, offset_type)                                                 \
    int name(int descriptor, int mode, offset_type offset, offset_type length) {    \
        int result = REAL(name)(descriptor, mode, offset, length);                  \
        if (!result) note_allocation(descriptor, mode, offset, length);             \
        return result;                                                              \
    }
ALLOCATE(fallocate, off_t)
ALLOCATE(fallocate64, off64_t)

#define POSIX_ALLOCATE(name, offset_type)                                  \
    int name(int descriptor, offset_type offset, offset_type length) {     \
        int result = REAL(name)(descriptor, offset, length);               \
        if (!result) note_allocation(descriptor, 0, offset, length);       \
        return result;                                                     \
    }
POSIX_ALLOCATE(posix_fallocate, off_t)
POSIX_ALLOCATE(posix_fallocate64, off64_t)

/* --- the moment from which it is durable ------------------------------------------------------ */

#define SYNC(name)                                                                              \
    int name(int descriptor) {                                                                  \
        char path[PATH_MAX];                                                                    \
        if (lose_syncs) return 0;                                                               \
        int ours = recording() && path_of(descriptor, path);                                    \
        struct record record = {.kind = SYNC_BEGUN, .inode = ours ? inode_of(descriptor) : 0};  \
        if (ours) append(&record, path, NULL, NULL, 0, 0);                                      \
        int result = REAL(name)(descriptor);                                                    \
        record.kind = SYNCED;                                                                   \
        if (ours && !result) append(&record, path, NULL, NULL, 0, 0);                           \
        return result;                                                                          \
    }
SYNC(fsync)
SYNC(fdatasync)

/* --- what the peer is told -------------------------------------------------------------------- */

ssize_t send(int descriptor, const void *data, size_t bytes, int flags) {
    struct iovec whole = {(void *)data, bytes};
    note_send(descriptor, &whole, 1);
    return REAL(send)(descriptor, data, bytes, flags);
}

ssize_t sendto(int descriptor, const void *data, size_t bytes, int flags,
               const struct sockaddr *to, socklen_t to_bytes) {
    struct iovec whole = {(void *)data, bytes};
    note_send(descriptor, &whole, 1);
    return REAL(sendto)(descriptor, data, bytes, flags, to, to_bytes);
}

ssize_t sendmsg(int descriptor, const struct msghdr *message, int flags) {
    note_send(descriptor, message->msg_iov, message->msg_iovlen);
    return REAL(sendmsg)(descriptor, message, flags);
}
