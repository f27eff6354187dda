/* Children of a process that has a device open and traffic under way (fork(2), exec(3), posix_spawn(3), system(3), popen(3), vfork(2)).
 *
 * Usage: fork CASE [FORK_INIT]; cases: children | exec-self | exec-with-child | orphan. */
#define _GNU_SOURCE
#include "util.h"
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <poll.h>
#include <spawn.h>
#include <stdatomic.h>

#define AREA (128 << 10)

extern char **environ;

struct intro {
    struct address address;
    uint64_t buffer;
    uint32_t rkey;
};

/* -- traffic ---------------------------------------------------------------------------- */

/* One end: in each round it sends `length` bytes, writes as many into the other's memory, and receives the same. */
struct end {
    struct node n;
    struct ibv_qp *qp;
    unsigned char *memory; /* sent, received, written by the peer */
    struct ibv_mr *mr;
    struct intro peer;
    unsigned mine, theirs;
    int fd;
};

static void open_end(struct end *e, int device, int fd)
{
    e->n = open_node(device);
    e->memory = pages(3 * AREA);
    CHECK(e->mr = ibv_reg_mr(e->n.pd, e->memory, 3 * AREA, ALL_ACCESS));
    e->qp = make_qp(&e->n, ALL_ACCESS);
    e->fd = fd;
    e->mine = device ? 3 : 101;
    e->theirs = device ? 101 : 3;
    struct intro me = {address_of(e->qp), (uintptr_t)e->memory, e->mr->rkey};
    put(fd, &me, sizeof me);
    get(fd, &e->peer, sizeof e->peer);
    connect_qp(e->qp, &e->peer.address);
    char c;
    put(fd, "", 1);
    get(fd, &c, 1);
}

static uint32_t length_of(unsigned round)
{
    static const uint32_t lengths[] = {8, 64, 1000, 4096, 20000, AREA};
    return lengths[round % 6];
}

/* Both must have posted their receive: the byte on the socket says so, and whether the other one wants to stop. */
static int one_round(struct end *e, unsigned round, int stop)
{
    uint32_t len = length_of(round);
    unsigned char *sent = e->memory, *received = e->memory + AREA, *written = e->memory + 2 * AREA;
    post_recv(e->qp, 1, received, AREA, e->mr->lkey);
    fill(sent, len, e->mine + round);
    char c = (char)stop, other;
    put(e->fd, &c, 1);
    get(e->fd, &other, 1);
    if (c || other)
        return 0;
    post(e->qp, 2, IBV_WR_RDMA_WRITE, sent, len, e->mr->lkey, e->peer.buffer + 2 * AREA, e->peer.rkey);
    post(e->qp, 3, IBV_WR_SEND, sent, len, e->mr->lkey, 0, 0);
    for (unsigned seen = 0; seen != 14;) {
        struct ibv_wc wc;
        if (!poll_for(e->n.cq, &wc, 20))
            FAIL("round %u: nothing happens; seen %#x", round, seen);
        if (wc.status != IBV_WC_SUCCESS)
            FAIL("round %u: %s", round, ibv_wc_status_str(wc.status));
        seen |= 1u << wc.wr_id;
    }
    if (!is_filled(received, len, e->theirs + round) || !is_filled(written, len, e->theirs + round))
        FAIL("round %u: wrong data", round);
    memset(received, 0, len);
    memset(written, 0, len);
    return 1;
}

static void peer_of_children(int fd)
{
    struct end e = {0};
    open_end(&e, 1, fd);
    unsigned round = 0;
    while (one_round(&e, round, 0))
        round++;
}

static struct end parent;
static atomic_int stop;
static atomic_uint rounds;

static void *traffic(void *unused)
{
    while (one_round(&parent, atomic_load(&rounds), atomic_load(&stop)))
        atomic_fetch_add(&rounds, 1);
    return unused;
}

/* -- children --------------------------------------------------------------------------- */

static void expect_exit(pid_t pid, int code)
{
    int status;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != code)
        FAIL("a child ended with status %#x", status);
}

/* One of the device. `gaudi-soft run` has a file of its own that all its programs keep open on purpose. */
static int is_the_devices(const char *target)
{
    return !strstr(target, "/users") && (strstr(target, "memfd") || strstr(target, "gaudi") || strstr(target, "pidfd") || strstr(target, "/mem"));
}

/* No descriptor of the device reaches another program. */
static void no_descriptor_goes_on(void)
{
    FILE *f = popen("ls -l /proc/self/fd", "r");
    CHECK(f);
    char line[400];
    int count = 0;
    while (fgets(line, sizeof line, f)) {
        count += strstr(line, "->") != NULL;
        if (is_the_devices(line))
            FAIL("a program inherits %s", line);
    }
    CHECK(!pclose(f) && count >= 3);
}

/* The device of a child is the child's own; what it inherited does nothing. */
static void verbs_in_a_child(void)
{
    struct ibv_wc wc;
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
    CHECK(ibv_poll_cq(parent.n.cq, 1, &wc) < 0);
    CHECK(ibv_modify_qp(parent.qp, &attr, IBV_QP_STATE));
    CHECK(!ibv_reg_mr(parent.n.pd, parent.memory, PAGE, ALL_ACCESS));
    ibv_dereg_mr(parent.mr);
    ibv_destroy_qp(parent.qp);
    ibv_close_device(parent.n.ctx);
    struct node own = open_node(0);
    struct ibv_qp *a = make_qp(&own, ALL_ACCESS), *b = make_qp(&own, ALL_ACCESS);
    struct address to_a = address_of(a), to_b = address_of(b);
    connect_qp(a, &to_b);
    connect_qp(b, &to_a);
    post_recv(b, 1, NULL, 0, 0);
    post(a, 2, IBV_WR_SEND, NULL, 0, 0, 0, 0);
    for (int i = 0; i < 2; i++)
        CHECK(poll_for(own.cq, &wc, 10) && wc.status == IBV_WC_SUCCESS);
    CHECK(!ibv_destroy_qp(a) && !ibv_destroy_qp(b));
    close_node(&own);
}

static int fork_init;

/* All memory that the peer writes to and reads from is shared with the child until one of the two touches it. After ibv_fork_init(3) the
 * child has not got it at all. */
static void touch(void)
{
    if (fork_init)
        return;
    for (size_t i = 0; i < 3 * AREA; i += 512)
        parent.memory[i] ^= 0x55;
}

static void children(void)
{
    char *true_line[] = {"true", NULL};
    pid_t pid;
    int fd = fork_peer(peer_of_children, &pid), kinds = 0;
    open_end(&parent, 0, fd);
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, traffic, NULL));
    for (double end = now() + 4; now() < end; kinds++) {
        unsigned before = atomic_load(&rounds);
        pid_t child;
        switch (kinds % 9) {
        case 0:
            CHECK((child = fork()) >= 0);
            if (!child) {
                execlp("true", "true", (char *)NULL);
                _exit(9);
            }
            expect_exit(child, 0);
            break;
        case 1:
            CHECK(!system("exit 0"));
            break;
        case 2:
            no_descriptor_goes_on();
            break;
        case 3:
            CHECK(!posix_spawnp(&child, "true", NULL, NULL, true_line, environ));
            expect_exit(child, 0);
            break;
        case 4:
            CHECK((child = vfork()) >= 0);
            if (!child) {
                execlp("true", "true", (char *)NULL);
                _exit(9);
            }
            expect_exit(child, 0);
            break;
        case 5: /* ends in a hurry */
            CHECK((child = fork()) >= 0);
            if (!child) {
                touch();
                _exit(0);
            }
            expect_exit(child, 0);
            break;
        case 6: /* ends with all that exit(3) runs, while it shares memory for a while */
            CHECK((child = fork()) >= 0);
            if (!child) {
                touch();
                usleep(20 * 1000);
                exit(0);
            }
            expect_exit(child, 0);
            break;
        case 7:
            CHECK((child = fork()) >= 0);
            if (!child) {
                touch();
                verbs_in_a_child();
                exit(0);
            }
            expect_exit(child, 0);
            break;
        default: /* killed */
            CHECK((child = fork()) >= 0);
            if (!child) {
                touch();
                pause();
            }
            CHECK(!kill(child, SIGKILL) && waitpid(child, NULL, 0) == child);
        }
        /* A child that is gone holds nothing up. */
        for (double patience = now() + 10; atomic_load(&rounds) == before;)
            if (now() > patience)
                FAIL("no traffic after child %d", kinds);
    }
    /* A child program sees the device. */
    CHECK(!system("ibv_devinfo -d hbl_1 | grep -q PORT_ACTIVE"));
    atomic_store(&stop, 1);
    pthread_join(thread, NULL);
    reap(pid);
    CHECK(!ibv_destroy_qp(parent.qp) && !ibv_dereg_mr(parent.mr));
    close_node(&parent.n);
    printf("%d children, %u rounds\n", kinds, atomic_load(&rounds));
}

/* -- ends of a process ------------------------------------------------------------------ */

/* Somebody who is connected to the process that ends in one of the ways below. */
static void witness(int fd)
{
    struct end e = {0};
    open_end(&e, 1, fd);
    post_recv(e.qp, 7, e.memory, 64, e.mr->lkey);
    char c;
    put(fd, "w", 1);
    get(fd, &c, 1); /* now it ends */
    struct ibv_wc wc;
    if (!poll_for(e.n.cq, &wc, 10))
        FAIL("the witness of a death has not heard of it");
    CHECK(wc.wr_id == 7 && wc.status == IBV_WC_WR_FLUSH_ERR);
    put(fd, "h", 1);
}

/* The program after exec: all is new, nothing is left of before but the socket. */
static void after_exec(int fd, pid_t pid)
{
    char c;
    get(fd, &c, 1);
    CHECK(c == 'h');
    reap(pid);
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;
    while ((entry = readdir(dir))) {
        char path[300], target[300];
        snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
        ssize_t n = readlink(path, target, sizeof target - 1);
        target[n > 0 ? n : 0] = 0;
        if (is_the_devices(target))
            FAIL("%s -> %s has survived exec", path, target);
    }
    closedir(dir);
    struct node n = open_node(0);
    close_node(&n);
}

static void exec_self(int with_child)
{
    pid_t pid, child = 0;
    int fd = fork_peer(witness, &pid);
    struct end e = {0};
    open_end(&e, 0, fd);
    char c, number[20], process[20], other[20];
    get(fd, &c, 1);
    if (with_child) {
        /* It keeps every descriptor of ours. */
        CHECK((child = fork()) >= 0);
        if (!child) {
            close(fd);
            for (;;)
                pause();
        }
    }
    CHECK(fcntl(fd, F_SETFD, 0) == 0);
    snprintf(number, sizeof number, "%d", fd);
    snprintf(process, sizeof process, "%d", pid);
    snprintf(other, sizeof other, "%d", child);
    put(fd, "x", 1);
    execl("/proc/self/exe", "fork", "after-exec", number, process, other, (char *)NULL);
    FAIL("exec");
}

/* The process is killed; a child that it has forked lives on with copies of all its descriptors. */
static void orphan(void)
{
    int up[2];
    CHECK(!pipe(up));
    pid_t middle = fork();
    CHECK(middle >= 0);
    if (!middle) {
        pid_t pid;
        int fd = fork_peer(witness, &pid);
        struct end e = {0};
        open_end(&e, 0, fd);
        char c;
        get(fd, &c, 1);
        put(fd, "x", 1);
        pid_t child = fork();
        CHECK(child >= 0);
        if (!child) {
            /* Hears from the witness in the place of the dead. */
            get(fd, &c, 1);
            put(up[1], &c, 1);
            _exit(0);
        }
        raise(SIGKILL);
    }
    CHECK(waitpid(middle, NULL, 0) == middle);
    struct pollfd fd = {.fd = up[0], .events = POLLIN};
    char c = 0;
    CHECK(poll(&fd, 1, 15000) == 1);
    CHECK(read(up[0], &c, 1) == 1);
    CHECK(c == 'h');
}

int main(int argc, char **argv)
{
    CHECK(argc > 1);
    what = argv[1];
    signal(SIGPIPE, SIG_IGN);
    if (!strcmp(what, "after-exec")) {
        pid_t child = atoi(argv[4]);
        after_exec(atoi(argv[2]), atoi(argv[3]));
        if (child)
            CHECK(!kill(child, SIGKILL) && waitpid(child, NULL, 0) == child);
        return 0;
    }
    if (argc > 2) {
        CHECK(!ibv_fork_init());
        fork_init = 1;
    }
    if (!strcmp(what, "children"))
        children();
    else if (!strcmp(what, "exec-self"))
        exec_self(0);
    else if (!strcmp(what, "exec-with-child"))
        exec_self(1);
    else if (!strcmp(what, "orphan"))
        orphan();
    else
        return 2;
    return 0;
}
