/* What the C tests share: a device, queue pairs, and a way to connect two of them over a socket pair. */
#ifndef GAUDI_TEST_UTIL_H
#define GAUDI_TEST_UTIL_H

#include <arpa/inet.h>
#include <errno.h>
#include <infiniband/verbs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define GID_INDEX 3 /* IPv4, RoCE v2 */
#define ALL_ACCESS (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC)

static const char *what = "start"; /* the case that runs, for messages */

#define FAIL(...)                                                                                                              \
    do {                                                                                                                       \
        fprintf(stderr, "%s: %s:%d: ", what, __FILE__, __LINE__);                                                              \
        fprintf(stderr, __VA_ARGS__);                                                                                          \
        fputc('\n', stderr);                                                                                                   \
        exit(1);                                                                                                               \
    } while (0)
#define CHECK(x)                                                                                                               \
    do {                                                                                                                       \
        if (!(x))                                                                                                              \
            FAIL("%s (errno %d, %s)", #x, errno, strerror(errno));                                                             \
    } while (0)

static inline double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static inline struct ibv_context *open_device(int index)
{
    int n = 0;
    struct ibv_device **list = ibv_get_device_list(&n);
    CHECK(list);
    if (index >= n)
        FAIL("device %d of %d", index, n);
    struct ibv_context *ctx = ibv_open_device(list[index]);
    CHECK(ctx);
    ibv_free_device_list(list);
    return ctx;
}

/* One context with what most tests need. */
struct node {
    struct ibv_context *ctx;
    struct ibv_pd *pd;
    struct ibv_cq *cq;
};

static inline struct node open_node(int device)
{
    struct node n = {.ctx = open_device(device)};
    CHECK(n.pd = ibv_alloc_pd(n.ctx));
    CHECK(n.cq = ibv_create_cq(n.ctx, 1024, NULL, NULL, 0));
    return n;
}

static inline void close_node(struct node *n)
{
    CHECK(!ibv_destroy_cq(n->cq));
    CHECK(!ibv_dealloc_pd(n->pd));
    CHECK(!ibv_close_device(n->ctx));
}

/* What the other side must know of a queue pair. */
struct address {
    uint32_t qpn, psn;
    union ibv_gid gid;
};

static inline struct ibv_qp *make_qp(struct node *n, int access)
{
    struct ibv_qp_init_attr init = {
        .send_cq = n->cq,
        .recv_cq = n->cq,
        .qp_type = IBV_QPT_RC,
        .cap = {.max_send_wr = 128, .max_recv_wr = 256, .max_send_sge = 16, .max_recv_sge = 16, .max_inline_data = 256},
    };
    struct ibv_qp *qp = ibv_create_qp(n->pd, &init);
    CHECK(qp);
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = access};
    CHECK(!(errno = ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS)));
    return qp;
}

static inline struct address address_of(struct ibv_qp *qp)
{
    struct address a = {.qpn = qp->qp_num, .psn = (qp->qp_num * 2654435761u) & 0xffffff};
    CHECK(!ibv_query_gid(qp->context, 1, GID_INDEX, &a.gid));
    return a;
}

static inline void to_rtr(struct ibv_qp *qp, const struct address *peer, int min_rnr_timer)
{
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_RTR,
        .path_mtu = IBV_MTU_1024,
        .dest_qp_num = peer->qpn,
        .rq_psn = peer->psn,
        .max_dest_rd_atomic = 1,
        .min_rnr_timer = min_rnr_timer,
        .ah_attr = {.is_global = 1, .port_num = 1, .grh = {.dgid = peer->gid, .sgid_index = GID_INDEX, .hop_limit = 64}},
    };
    CHECK(!(errno = ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                                                 IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER)));
}

static inline void to_rts(struct ibv_qp *qp, int rnr_retry)
{
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_RTS,
        .timeout = 14,
        .retry_cnt = 7,
        .rnr_retry = rnr_retry,
        .sq_psn = address_of(qp).psn,
        .max_rd_atomic = 1,
    };
    CHECK(!(errno = ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
                                                 IBV_QP_MAX_QP_RD_ATOMIC)));
}

static inline void connect_qp(struct ibv_qp *qp, const struct address *peer)
{
    to_rtr(qp, peer, 12);
    to_rts(qp, 7);
}

/* Whole messages over the socket between the two processes. */
static inline void put(int fd, const void *data, size_t len)
{
    CHECK(write(fd, data, len) == (ssize_t)len);
}
static inline void get(int fd, void *data, size_t len)
{
    ssize_t n = recv(fd, data, len, MSG_WAITALL);
    if (n != (ssize_t)len)
        FAIL("the other process is gone (%zd of %zu bytes)", n, len);
}

/* Forks `child(fd)`; call it before any device is open. Gives our end of the socket. */
static inline int fork_peer(void (*child)(int), pid_t *pid)
{
    int fd[2];
    CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, fd));
    fflush(NULL);
    CHECK((*pid = fork()) >= 0);
    if (!*pid) {
        close(fd[0]);
        child(fd[1]);
        exit(0);
    }
    close(fd[1]);
    return fd[0];
}

static inline void reap(pid_t pid)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    if (status)
        FAIL("the other process ended with status 0x%x", status);
}

/* Polls for at most `seconds`; 1 when there was one. */
static inline int poll_for(struct ibv_cq *cq, struct ibv_wc *wc, double seconds)
{
    double end = now() + seconds;
    for (;;) {
        int n = ibv_poll_cq(cq, 1, wc);
        CHECK(n >= 0);
        if (n)
            return 1;
        if (now() > end)
            return 0;
    }
}

/* The next completion, which must be `status` of `wr_id`. */
static inline struct ibv_wc expect(struct ibv_cq *cq, uint64_t wr_id, enum ibv_wc_status status)
{
    struct ibv_wc wc;
    if (!poll_for(cq, &wc, 10))
        FAIL("no completion of %llu within 10 s", (unsigned long long)wr_id);
    if (wc.status != status || wc.wr_id != wr_id)
        FAIL("completion of %llu with %s; expected %llu with %s", (unsigned long long)wc.wr_id, ibv_wc_status_str(wc.status),
             (unsigned long long)wr_id, ibv_wc_status_str(status));
    return wc;
}

static inline void post_recv(struct ibv_qp *qp, uint64_t wr_id, void *at, uint32_t len, uint32_t lkey)
{
    struct ibv_sge sge = {.addr = (uintptr_t)at, .length = len, .lkey = lkey};
    struct ibv_recv_wr wr = {.wr_id = wr_id, .sg_list = &sge, .num_sge = 1}, *bad;
    CHECK(!(errno = ibv_post_recv(qp, &wr, &bad)));
}

/* SEND or a WRITE of one range; signalled. */
static inline void post(struct ibv_qp *qp, uint64_t wr_id, enum ibv_wr_opcode op, void *at, uint32_t len, uint32_t lkey,
                        uint64_t remote, uint32_t rkey)
{
    struct ibv_sge sge = {.addr = (uintptr_t)at, .length = len, .lkey = lkey};
    struct ibv_send_wr wr = {.wr_id = wr_id,
                             .opcode = op,
                             .sg_list = &sge,
                             .num_sge = len ? 1 : 0,
                             .send_flags = IBV_SEND_SIGNALED,
                             .imm_data = htonl(0xabcd0000u + (uint32_t)wr_id),
                             .wr.rdma = {.remote_addr = remote, .rkey = rkey}},
                       *bad;
    CHECK(!(errno = ibv_post_send(qp, &wr, &bad)));
}

static inline void post_one_send(struct ibv_qp *qp, uint64_t wr_id, struct ibv_mr *mr, void *at, uint32_t len)
{
    post(qp, wr_id, IBV_WR_SEND, at, len, mr->lkey, 0, 0);
}

/* Page-aligned zeroed memory. */
static inline unsigned char *pages(size_t len)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

static inline void fill(unsigned char *at, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++)
        at[i] = (unsigned char)(seed + i * 7 + (i >> 8));
}

static inline int is_filled(const unsigned char *at, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++)
        if (at[i] != (unsigned char)(seed + i * 7 + (i >> 8)))
            return 0;
    return 1;
}

#endif
