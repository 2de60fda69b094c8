/* Lets one sync fail, as a disk does that lost what it was given.
 *
 * Loaded with LD_PRELOAD. While the file LIMNER_FAIL_SYNC exists, the next fdatasync of a file whose
 * name ends with what it contains fails with EIO, or the next write to it that waits for the disk;
 * LIMNER_FAIL_SYNC is then renamed to LIMNER_FAIL_SYNC.done. Should the same descriptor ever be
 * synced again, LIMNER_FAIL_SYNC.again is made: Linux would claim success for pages that it has
 * dropped.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int failed = -1;  /* the descriptor whose sync failed, until it is closed */

static void beside(char *path, const char *suffix) {
    snprintf(path, PATH_MAX, "%s%s", getenv("LIMNER_FAIL_SYNC"), suffix);
}

static int fails_now(int descriptor) {
    char wanted[PATH_MAX], link[64], name[PATH_MAX], done[PATH_MAX];
    int trigger = open(getenv("LIMNER_FAIL_SYNC"), O_RDONLY);
    if (trigger < 0) return 0;
    ssize_t size = read(trigger, wanted, sizeof wanted - 1);
    close(trigger);
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (size <= 0 || length < size || memcmp(name + length - size, wanted, size)) return 0;
    beside(done, ".done");
    return rename(getenv("LIMNER_FAIL_SYNC"), done) == 0;  /* of many threads one wins */
}

static int sync_or_fail(int descriptor, const char *call) {
    if (getenv("LIMNER_FAIL_SYNC")) {
        if (descriptor == failed) {
            char again[PATH_MAX];
            beside(again, ".again");
            close(open(again, O_WRONLY | O_CREAT, 0600));
        }
        if (fails_now(descriptor)) {
            failed = descriptor;
            errno = EIO;
            return -1;
        }
    }
    return ((int (*)(int))dlsym(RTLD_NEXT, call))(descriptor);
}

int fdatasync(int descriptor) { return sync_or_fail(descriptor, "fdatasync"); }

int fsync(int descriptor) { return sync_or_fail(descriptor, "fsync"); }

static int waits(int descriptor) { return fcntl(descriptor, F_GETFL) & O_DSYNC; }

#define WRITE(name, offset_type)                                                              \
    ssize_t name(int descriptor, const struct iovec *data, int pieces, offset_type offset) {  \
        __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                  \
        if (getenv("LIMNER_FAIL_SYNC") && waits(descriptor) && fails_now(descriptor)) {       \
            real(descriptor, data, pieces, offset); /* it may have reached the disk */        \
            failed = descriptor;                                                              \
            errno = EIO;                                                                      \
            return -1;                                                                        \
        }                                                                                     \
        return real(descriptor, data, pieces, offset);                                        \
    }
WRITE(pwritev, off_t)
WRITE(pwritev64, off64_t)

#define WRITE2(name, offset_type)                                                             \
    ssize_t name(int descriptor, const struct iovec *data, int pieces, offset_type offset,    \
                 int flags) {                                                                 \
        __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                  \
        if (getenv("LIMNER_FAIL_SYNC") && waits(descriptor) && fails_now(descriptor)) {       \
            real(descriptor, data, pieces, offset, flags);                                    \
            failed = descriptor;                                                              \
            errno = EIO;                                                                      \
            return -1;                                                                        \
        }                                                                                     \
        return real(descriptor, data, pieces, offset, flags);                                 \
    }
WRITE2(pwritev2, off_t)
WRITE2(pwritev64v2, off64_t)

int close(int descriptor) {
    if (descriptor == failed) failed = -1;
    return ((int (*)(int))dlsym(RTLD_NEXT, "close"))(descriptor);
}
