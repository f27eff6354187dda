/* What programs do with descriptors and threads around a device that is open.

   descriptors CASE: full | main-exit | main-exit-peer | main-exit-late | few | channels | strangers | close-all | daemon | room  (see tests/descriptors.rs) */
#define _GNU_SOURCE
#include "util.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* Everything of the node still works, a send to itself included. */
static void works(struct node *n)
{
    struct ibv_qp *a = make_qp(n, ALL_ACCESS), *b = make_qp(n, ALL_ACCESS);
    struct address to_a = address_of(a), to_b = address_of(b);
    connect_qp(a, &to_b);
    connect_qp(b, &to_a);
    static char buffer[2 * PAGE] = "ping";
    struct ibv_mr *mr = ibv_reg_mr(n->pd, buffer, sizeof(buffer), ALL_ACCESS);
    CHECK(mr);
    struct ibv_sge to = {(uintptr_t)buffer + PAGE, 8, mr->lkey}, from = {(uintptr_t)buffer, 8, mr->lkey};
    struct ibv_recv_wr recv = {.sg_list = &to, .num_sge = 1}, *bad_recv;
    struct ibv_send_wr send = {.sg_list = &from, .num_sge = 1, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED}, *bad;
    memset(buffer + PAGE, 0, 8);
    CHECK(!ibv_post_recv(b, &recv, &bad_recv));
    CHECK(!ibv_post_send(a, &send, &bad));
    double end = now() + 10;
    for (int done = 0; done < 2;) {
        struct ibv_wc wc;
        int got = ibv_poll_cq(n->cq, 1, &wc);
        CHECK(got >= 0 && now() < end);
        if (got && wc.status)
            FAIL("completion: %s", ibv_wc_status_str(wc.status));
        done += got;
    }
    CHECK(!strcmp(buffer + PAGE, "ping"));
    /* Without a channel nobody is told. */
    CHECK(!ibv_req_notify_cq(n->cq, 0));
    CHECK(!ibv_destroy_qp(a));
    CHECK(!ibv_destroy_qp(b));
    CHECK(!ibv_dereg_mr(mr));
}

/* An open that fails for want of numbers leaves the devices that are open alone. */
static void full(void)
{
    struct node n = open_node(0);
    struct ibv_device **list = ibv_get_device_list(NULL);
    CHECK(list);
    struct rlimit limit = {256, 256};
    CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
    int taken[256], count = 0;
    while ((taken[count] = open("/dev/null", O_RDONLY)) >= 0)
        count++;
    CHECK(errno == EMFILE);
    CHECK(!ibv_open_device(list[0]));
    while (count--)
        close(taken[count]);
    ibv_free_device_list(list);
    works(&n);
    close_node(&n);
}

/* The first thread of a program may end before the others. */
static void *after_main(void *arg)
{
    struct node *n = arg;
    pid_t first = getpid();
    char path[64], state[512] = "";
    double end = now() + 10;
    /* Until it is a zombie. */
    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", first);
    while (!strstr(state, ") Z ")) {
        CHECK(now() < end);
        FILE *f = fopen(path, "r");
        CHECK(f && fgets(state, sizeof(state), f));
        fclose(f);
    }
    struct node second = open_node(0);
    struct ibv_comp_channel *channel = ibv_create_comp_channel(n->ctx);
    CHECK(channel && !ibv_destroy_comp_channel(channel));
    works(n);
    works(&second);
    close_node(&second);
    works(n);
    close_node(n);
    exit(0);
}

static void main_exit(void)
{
    static struct node n;
    n = open_node(0);
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, after_main, &n));
    pthread_exit(NULL);
}

/* The same for a process that others write to: on a connection from before, and on one that is made afterwards. */
enum { LARGE = 1 << 20 };
struct far {
    struct address at;
    uint64_t memory;
    uint32_t rkey;
};
struct side {
    struct node n;
    int fd;
    unsigned char *memory;
    struct ibv_mr *mr;
};

static struct ibv_qp *meet(struct side *s, struct far *peer)
{
    struct ibv_qp *qp = make_qp(&s->n, ALL_ACCESS);
    struct far mine = {address_of(qp), (uintptr_t)s->memory, s->mr->rkey};
    put(s->fd, &mine, sizeof(mine));
    get(s->fd, peer, sizeof(*peer));
    connect_qp(qp, &peer->at);
    char ready = 1;
    put(s->fd, &ready, 1);
    get(s->fd, &ready, 1);
    return qp;
}

static void *without_first(void *arg)
{
    struct side *s = arg;
    char path[64], state[512] = "", go = 1;
    double end = now() + 10;
    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", getpid());
    while (!strstr(state, ") Z ")) {
        CHECK(now() < end);
        FILE *f = fopen(path, "r");
        CHECK(f && fgets(state, sizeof(state), f));
        fclose(f);
    }
    put(s->fd, &go, 1);
    struct far peer;
    meet(s, &peer);
    /* Until the other side has written twice. */
    get(s->fd, &go, 1);
    CHECK(is_filled(s->memory, LARGE, 2));
    exit(0);
}

static void child_without_first(int fd)
{
    static struct side s;
    s = (struct side){.n = open_node(0), .fd = fd, .memory = pages(LARGE)};
    CHECK(s.mr = ibv_reg_mr(s.n.pd, s.memory, LARGE, ALL_ACCESS));
    struct far peer;
    meet(&s, &peer);
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, without_first, &s));
    pthread_exit(NULL);
}

static void main_exit_peer(void)
{
    pid_t pid;
    struct side s = {.fd = fork_peer(child_without_first, &pid)};
    s.n = open_node(0);
    s.memory = pages(LARGE);
    CHECK(s.mr = ibv_reg_mr(s.n.pd, s.memory, LARGE, ALL_ACCESS));
    struct far before, after;
    struct ibv_qp *first = meet(&s, &before);
    char go;
    get(s.fd, &go, 1);
    fill(s.memory, LARGE, 1);
    post(first, 1, IBV_WR_RDMA_WRITE, s.memory, LARGE, s.mr->lkey, before.memory, before.rkey);
    expect(s.n.cq, 1, IBV_WC_SUCCESS);
    struct ibv_qp *second = meet(&s, &after);
    memset(s.memory, 0, LARGE);
    post(second, 2, IBV_WR_RDMA_READ, s.memory, LARGE, s.mr->lkey, after.memory, after.rkey);
    expect(s.n.cq, 2, IBV_WC_SUCCESS);
    CHECK(is_filled(s.memory, LARGE, 1));
    fill(s.memory, LARGE, 2);
    post(second, 3, IBV_WR_RDMA_WRITE, s.memory, LARGE, s.mr->lkey, after.memory, after.rkey);
    expect(s.n.cq, 3, IBV_WC_SUCCESS);
    put(s.fd, &go, 1);
    reap(pid);
}

/* ... and for a process that meets one for the first time when its first thread is gone. */
static void *late(void *arg)
{
    struct side *s = arg;
    struct far peer;
    char go;
    get(s->fd, &go, 1);
    meet(s, &peer);
    get(s->fd, &go, 1);
    CHECK(is_filled(s->memory, LARGE, 3));
    exit(0);
}

static void child_late(int fd)
{
    static struct side s;
    s = (struct side){.n = open_node(0), .fd = fd, .memory = pages(LARGE)};
    CHECK(s.mr = ibv_reg_mr(s.n.pd, s.memory, LARGE, ALL_ACCESS));
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, late, &s));
    pthread_exit(NULL);
}

static void main_exit_late(void)
{
    pid_t pid;
    struct side s = {.fd = fork_peer(child_late, &pid)};
    usleep(300000);
    char go = 1;
    put(s.fd, &go, 1);
    s.n = open_node(0);
    s.memory = pages(LARGE);
    CHECK(s.mr = ibv_reg_mr(s.n.pd, s.memory, LARGE, ALL_ACCESS));
    struct far peer;
    struct ibv_qp *qp = meet(&s, &peer);
    fill(s.memory, LARGE, 3);
    post(qp, 1, IBV_WR_RDMA_WRITE, s.memory, LARGE, s.mr->lkey, peer.memory, peer.rkey);
    expect(s.n.cq, 1, IBV_WC_SUCCESS);
    put(s.fd, &go, 1);
    reap(pid);
}

/* A peer that is met while no descriptor is free is met as soon as one is. */
static void child_waits(int fd)
{
    struct side s = {.n = open_node(0), .fd = fd, .memory = pages(LARGE)};
    CHECK(s.mr = ibv_reg_mr(s.n.pd, s.memory, LARGE, ALL_ACCESS));
    struct far peer;
    char go;
    meet(&s, &peer);
    get(fd, &go, 1);
    CHECK(is_filled(s.memory, LARGE, 4));
    exit(0);
}

static void few(void)
{
    struct rlimit limit = {256, 256};
    pid_t pid;
    struct side s = {.fd = fork_peer(child_waits, &pid)};
    CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
    s.n = open_node(0);
    s.memory = pages(LARGE);
    CHECK(s.mr = ibv_reg_mr(s.n.pd, s.memory, LARGE, ALL_ACCESS));
    fill(s.memory, LARGE, 4);
    int taken[256], count = 0;
    while ((taken[count] = open("/dev/null", O_RDONLY)) >= 0)
        count++;
    CHECK(errno == EMFILE);
    /* Each number of free descriptors: what is missing is another one each time. */
    struct far peer;
    struct ibv_qp *qp = meet(&s, &peer);
    post(qp, 1, IBV_WR_RDMA_WRITE, s.memory, LARGE, s.mr->lkey, peer.memory, peer.rkey);
    struct ibv_wc wc;
    int done = 0;
    while (count && !(done = poll_for(s.n.cq, &wc, 0.1)))
        close(taken[--count]);
    CHECK(done || poll_for(s.n.cq, &wc, 10));
    if (wc.status)
        FAIL("%s with %d descriptors taken", ibv_wc_status_str(wc.status), count);
    char go = 1;
    put(s.fd, &go, 1);
    reap(pid);
}

/* A command by write(2) goes to the device, or nowhere: never into the file behind the descriptor, which peers read. */
static void strangers(void)
{
    struct node n = open_node(0);
    int fd = n.ctx->cmd_fd, copy = dup(fd);
    char before[256], after[256];
    CHECK(pread(fd, before, sizeof(before), 0) == sizeof(before));
    /* QUERY_PORT, in words: command, lengths, response, port. */
    char answer[64] = "";
    uint32_t words[6] = {2, 6 | 10 << 16, 0, 0, 1};
    uint64_t to = (uintptr_t)answer;
    memcpy(words + 2, &to, 8);
    CHECK(write(fd, words, 24) == 24 && answer[26] == IBV_PORT_ACTIVE);
    memset(answer, 0, sizeof(answer));
    CHECK(write(copy, words, 24) == 24 && answer[26] == IBV_PORT_ACTIVE);
    CHECK(write(copy, words, 20) < 0 && errno == EINVAL);
    pid_t child = fork();
    if (!child) {
        CHECK(write(fd, words, 24) < 0 && errno == EIO);
        CHECK(write(copy, words, 24) < 0 && errno == EIO);
        CHECK(pwrite(fd, words, 24, 0) < 0 && errno == EPERM);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(pread(fd, after, sizeof(after), 0) == sizeof(after) && !memcmp(before, after, sizeof(before)));
    works(&n);
    close(copy);
    close_node(&n);
}

/* The usual limit on descriptors is enough for a few hundred channels. */
static void channels(void)
{
    struct rlimit limit = {1024, 1024};
    CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
    struct node n = open_node(0);
    struct ibv_comp_channel *all[200];
    for (int i = 0; i < 200; i++)
        CHECK(all[i] = ibv_create_comp_channel(n.ctx));
    works(&n);
    for (int i = 0; i < 200; i++)
        CHECK(!ibv_destroy_comp_channel(all[i]));
    close_node(&n);
}

static double cpu(void)
{
    struct rusage u;
    CHECK(!getrusage(RUSAGE_SELF, &u));
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

/* Whoever closes all numbers that are not its own keeps the device, which has some of its own high up. */
static void close_all(void)
{
    struct rlimit limit = {4096, 4096};
    CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
    struct node n = open_node(0);
    works(&n);
    int internal = 0, null = open("/dev/null", O_RDWR);
    for (int fd = 1000; fd < 1200; fd++) {
        if (fcntl(fd, F_GETFD) < 0)
            continue;
        char path[64], name[128] = "";
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        CHECK(readlink(path, name, sizeof(name) - 1) > 0);
        /* The others are of the provider and of `gaudi-soft run`. */
        if (!strstr(name, "memfd:gaudi") && !strstr(name, "/locks") && !strstr(name, "/fabric.shm"))
            continue;
        internal++;
        if (close(fd) == 0 || errno != EBADF)
            FAIL("closed %d, which is %s", fd, name);
        CHECK(dup2(null, fd) < 0 && errno == EBUSY);
        CHECK(dup3(null, fd, O_CLOEXEC) < 0 && errno == EBUSY);
    }
    CHECK(internal > 3);
    int low = fcntl(null, F_DUPFD, 900), high = fcntl(null, F_DUPFD, 2000);
    CHECK(low >= 0 && high >= 0);
    CHECK(!syscall(SYS_close_range, 5000, 5001, 0));
    CHECK(!close_range(900, ~0u, 0));
    CHECK(fcntl(low, F_GETFD) < 0 && fcntl(high, F_GETFD) < 0 && fcntl(null, F_GETFD) >= 0);
    closefrom(900);
    works(&n);
    struct node second = open_node(1);
    works(&second);
    close_node(&second);
    close_node(&n);
    /* Without asking libc there is no device afterwards, but the program has its processor. */
    n = open_node(0);
    works(&n);
    CHECK(!syscall(SYS_close_range, 900, ~0u, 0));
    usleep(300000);
    double before = cpu();
    usleep(1000000);
    double used = cpu() - before;
    if (used > 0.05)
        FAIL("%.2f s of processor time in a second of sleep", used);
    _exit(0);
}

static void close_loop(void)
{
    for (int fd = 3; fd < sysconf(_SC_OPEN_MAX) && fd < 65536; fd++)
        close(fd);
}

/* Daemons close everything first, before they open a device or behind it. The numbers are soon something else's. */
static void daemon_loop(void)
{
    struct ibv_device **list = ibv_get_device_list(NULL);
    CHECK(list);
    close_loop();
    ibv_free_device_list(list);
    struct node n = open_node(0);
    works(&n);
    close_node(&n);

    n = open_node(0);
    struct ibv_comp_channel *channel = ibv_create_comp_channel(n.ctx);
    CHECK(channel);
    struct ibv_cq *cq = ibv_create_cq(n.ctx, 16, NULL, channel, 0);
    CHECK(cq && !ibv_req_notify_cq(cq, 0));
    struct ibv_qp *a = make_qp(&n, ALL_ACCESS), *b = make_qp(&n, ALL_ACCESS);
    struct address to_a = address_of(a), to_b = address_of(b);
    connect_qp(a, &to_b);
    connect_qp(b, &to_a);
    static char memory[2 * PAGE];
    struct ibv_mr *mr = ibv_reg_mr(n.pd, memory, sizeof(memory), ALL_ACCESS);
    CHECK(mr);
    close_loop();
    int mine[32];
    for (int i = 0; i < 32; i++) {
        char name[] = "/tmp/gaudi-descriptors-XXXXXX";
        CHECK((mine[i] = mkstemp(name)) >= 0);
        CHECK(!unlink(name) && !ftruncate(mine[i], 1 << 16));
    }
    /* Anything may fail, nothing may crash or reach the files. */
    struct ibv_wc wc;
    for (int i = 0; i < 100; i++) {
        struct ibv_sge sge = {(uintptr_t)memory, 64, mr->lkey}, to = {(uintptr_t)memory + PAGE, 64, mr->lkey};
        struct ibv_recv_wr recv = {.sg_list = &to, .num_sge = 1}, *bad_recv;
        struct ibv_send_wr send = {.sg_list = &sge, .num_sge = 1, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED}, *bad;
        memset(memory, 0xff, sizeof(memory));
        ibv_post_recv(b, &recv, &bad_recv);
        ibv_post_send(a, &send, &bad);
        ibv_poll_cq(n.cq, 1, &wc);
        ibv_req_notify_cq(cq, 0);
        usleep(1000);
    }
    struct ibv_mr *more = ibv_reg_mr(n.pd, memory, sizeof(memory), ALL_ACCESS);
    if (more)
        ibv_dereg_mr(more);
    ibv_destroy_qp(a);
    for (int i = 0; i < 32; i++) {
        static char page[1 << 16], zero[1 << 16];
        CHECK(pread(mine[i], page, sizeof(page), 0) == sizeof(page) && !memcmp(page, zero, sizeof(page)));
    }
    /* The device can be opened again. */
    struct node again = open_node(0);
    works(&again);
    _exit(0);
}

static int fill_disk(char *path, size_t room)
{
    snprintf(path, room, "%s/../fill", getenv("GAUDI_SOFT_DIR"));
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
    CHECK(fd >= 0);
    static char page[PAGE];
    while (write(fd, page, sizeof(page)) == sizeof(page))
        ;
    CHECK(errno == ENOSPC);
    return fd;
}

/* A file system without room for the fabric's records is an error, and no SIGBUS. */
static void room(void)
{
    char path[512];
    struct ibv_device **list = ibv_get_device_list(NULL);
    CHECK(list && list[0]);
    int fd = fill_disk(path, sizeof(path));
    CHECK(!ibv_open_device(list[0]));
    CHECK(!unlink(path) && !close(fd));
    ibv_free_device_list(list);

    struct node n = open_node(0);
    works(&n);
    fd = fill_disk(path, sizeof(path));
    struct ibv_qp *qps[400];
    int count = 0;
    struct ibv_qp_init_attr init = {.send_cq = n.cq, .recv_cq = n.cq, .qp_type = IBV_QPT_RC, .cap = {16, 16, 1, 1, 0}};
    while (count < 400 && (qps[count] = ibv_create_qp(n.pd, &init)))
        count++;
    if (count == 0 || count == 400 || errno != ENOMEM)
        FAIL("%d QPs, then %s", count, strerror(errno));
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT, .port_num = 1};
    CHECK(!ibv_modify_qp(qps[0], &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS));
    /* A peer that does not exist has no record either. */
    struct address nowhere = address_of(qps[0]);
    nowhere.qpn = (nowhere.qpn & ~0x1fffu) | 8000;
    to_rtr(qps[0], &nowhere, 12);
    to_rts(qps[0], 7);
    usleep(200000);
    while (count)
        CHECK(!ibv_destroy_qp(qps[--count]));
    CHECK(!unlink(path) && !close(fd));
    works(&n);
    close_node(&n);
}

int main(int argc, char **argv)
{
    what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "full"))
        full();
    else if (!strcmp(what, "main-exit"))
        main_exit();
    else if (!strcmp(what, "main-exit-peer"))
        main_exit_peer();
    else if (!strcmp(what, "main-exit-late"))
        main_exit_late();
    else if (!strcmp(what, "few"))
        few();
    else if (!strcmp(what, "strangers"))
        strangers();
    else if (!strcmp(what, "close-all"))
        close_all();
    else if (!strcmp(what, "daemon"))
        daemon_loop();
    else if (!strcmp(what, "room"))
        room();
    else if (!strcmp(what, "channels"))
        channels();
    else
        FAIL("no such case");
    return 0;
}
