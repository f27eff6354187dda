/* The peer is killed while a queue pair is being connected to it, before each system call of each step: no step fails because of that,
 * the queue pair ends in the error state, and it can be reset and used again.
 *
 * The provider calls ioctl by name, so this program's own comes first. */
#define _GNU_SOURCE
#include "util.h"
#include <dlfcn.h>
#include <stdarg.h>

static pid_t victim_pid; /* alive while positive */
static int until = -1;   /* calls until it dies; negative: it lives */
static int calls;

static void kill_victim(void)
{
    CHECK(!kill(victim_pid, SIGKILL) && waitpid(victim_pid, NULL, 0) == victim_pid);
    victim_pid = 0;
    usleep(30 * 1000); /* for the device to notice */
}

int ioctl(int fd, unsigned long request, ...)
{
    static int (*next)(int, unsigned long, void *);
    if (!next)
        next = (int (*)(int, unsigned long, void *))dlsym(RTLD_NEXT, "ioctl");
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    calls++;
    if (until >= 0 && until-- == 0)
        kill_victim();
    return next(fd, request, argument);
}

static void victim(int fd)
{
    struct node n = open_node(1);
    struct ibv_qp *qp = make_qp(&n, ALL_ACCESS);
    struct address mine = address_of(qp), peer;
    put(fd, &mine, sizeof mine);
    get(fd, &peer, sizeof peer);
    connect_qp(qp, &peer);
    put(fd, "", 1);
    for (;;)
        pause();
}

static enum ibv_qp_state state_of(struct ibv_qp *qp)
{
    struct ibv_qp_attr attr;
    struct ibv_qp_init_attr init;
    CHECK(!ibv_query_qp(qp, &attr, IBV_QP_STATE, &init));
    return attr.qp_state;
}

/* How many calls the step made, `after` of which the peer lived through; -1: it died before the step. */
static int try_step(enum ibv_qp_state step, int after)
{
    char c;
    int fd = fork_peer(victim, &victim_pid);
    struct node n = open_node(0);
    struct ibv_qp *qp = make_qp(&n, ALL_ACCESS), *other = make_qp(&n, ALL_ACCESS);
    struct address theirs, mine = address_of(qp);
    get(fd, &theirs, sizeof theirs);
    put(fd, &mine, sizeof mine);
    get(fd, &c, 1);
    post_recv(qp, 1, NULL, 0, 0);
    calls = 0;
    until = step == IBV_QPS_RTR ? after : -1;
    to_rtr(qp, &theirs, 12);
    int made = calls;
    if (step == IBV_QPS_RTS)
        calls = 0, until = after;
    if (step == IBV_QPS_RTS && after < 0)
        kill_victim();
    to_rts(qp, 7);
    if (step == IBV_QPS_RTS)
        made = calls;
    until = -1;
    if (victim_pid) /* fewer calls than that */
        kill_victim();
    /* Who was connected is told; who came too late hears when it sends. */
    double end = now() + 10;
    while (state_of(qp) != IBV_QPS_ERR) {
        if (now() > end - 9.5)
            post(qp, 2, IBV_WR_SEND, NULL, 0, 0, 0, 0), end += 10;
        if (now() > end)
            FAIL("step %d, call %d: the peer is dead and the QP is in state %d", step, after, state_of(qp));
        usleep(1000);
    }
    struct ibv_wc wc;
    int receive = 0;
    while (poll_for(n.cq, &wc, 0)) {
        CHECK(wc.status != IBV_WC_SUCCESS);
        receive += wc.wr_id == 1;
    }
    CHECK(receive == 1);
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RESET};
    CHECK(!(errno = ibv_modify_qp(qp, &attr, IBV_QP_STATE)));
    attr = (struct ibv_qp_attr){.qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = ALL_ACCESS};
    CHECK(!(errno = ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS)));
    struct address a = address_of(qp), b = address_of(other);
    connect_qp(qp, &b);
    connect_qp(other, &a);
    post_recv(other, 3, NULL, 0, 0);
    post(qp, 4, IBV_WR_SEND, NULL, 0, 0, 0, 0);
    for (int i = 0; i < 2; i++)
        CHECK(poll_for(n.cq, &wc, 10) && wc.status == IBV_WC_SUCCESS);
    CHECK(!ibv_destroy_qp(qp) && !ibv_destroy_qp(other));
    close_node(&n);
    close(fd);
    return made;
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    for (int step = IBV_QPS_RTR; step <= IBV_QPS_RTS; step++) {
        what = step == IBV_QPS_RTR ? "death on the way to RTR" : "death on the way to RTS";
        for (int after = step == IBV_QPS_RTS ? -1 : 0;; after++) {
            /* A process for each: the victim must be forked before a device is open. */
            fflush(NULL);
            pid_t pid = fork();
            CHECK(pid >= 0);
            if (!pid)
                _exit(100 + try_step((enum ibv_qp_state)step, after));
            int status;
            CHECK(waitpid(pid, &status, 0) == pid);
            if (!WIFEXITED(status) || WEXITSTATUS(status) < 100)
                FAIL("before call %d: status %#x", after, status);
            int made = WEXITSTATUS(status) - 100;
            if (after >= made) {
                printf("%s: %d calls\n", what, made);
                break;
            }
        }
    }
    return 0;
}
