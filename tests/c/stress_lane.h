/* A lane of the stress test: one thread, one socket to its partner in the other process, a few queue pairs of one type. */
#ifndef GAUDI_TEST_STRESS_LANE_H
#define GAUDI_TEST_STRESS_LANE_H

#include "stress_plan.h"
#include "util.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define LANE_ACCESS (ALL_ACCESS | IBV_ACCESS_MW_BIND)
#define PATIENCE 20.0 /* seconds after which something is lost */

/* What all processes see. */
struct board {
    atomic_int stop;
    atomic_ullong rounds, requests, bytes, faults, deaths, wakeups, churned, statuses[32];
};
static struct board *board;

struct process {
    int side;
    struct ibv_context *ctx[2];
    struct ibv_pd *pd[2];
    struct ibv_xrcd *xrcd[2];
};

struct queue {
    struct ibv_qp *qp, *tgt; /* `tgt` is the receiving half of XRC */
    uint32_t incarnation;
    unsigned char *target, *local; /* `local`: what READs and atomics bring, then what receives bring */
    struct ibv_mr *target_mr, *local_mr;
    struct ibv_mw *mw;
    int window; /* type of the window that is bound: 0, 1 or 2 */
    uint32_t window_key;
    struct script mine, theirs;
    /* Progress in a round. */
    int posted, done, received, receives_posted, extra, extra_done, failed, flushed, checked, ok;
};

struct round_info {
    uint64_t target[MAX_QPS], source;
    uint32_t target_key[MAX_QPS], window_key[MAX_QPS], source_key, stop;
};

struct lane {
    const struct lane_kind *kind;
    struct process *process;
    int index, side, fd;
    uint64_t seed;
    uint32_t round;
    struct ibv_context *ctx;
    struct ibv_pd *pd;
    struct ibv_comp_channel *channel;
    struct ibv_cq *cq;
    struct ibv_srq *srq;
    uint32_t events, peer_srq;
    unsigned char *source, *mirror, *slots;
    struct ibv_mr *source_mr, *slots_mr;
    uint32_t in_srq;
    uint8_t slot_posted[SLOTS];
    struct queue queue[MAX_QPS];
    struct round_info peer;
    /* This round. */
    enum fault fault;
    int fault_side, fault_queue, fault_at, struck, gone;
    uint64_t cpu_adds;
    double struck_at;
};

#define LANE_FAIL(l, ...)                                                                                                      \
    do {                                                                                                                       \
        fprintf(stderr, "%s:%d: lane %d (%s) side %d round %u fault %d/%d/%d/%d: ", __FILE__, __LINE__, (l)->index,            \
                (l)->kind->name, (l)->side, (l)->round, (l)->fault, (l)->fault_side, (l)->fault_queue, (l)->fault_at);         \
        fprintf(stderr, __VA_ARGS__);                                                                                          \
        fputc('\n', stderr);                                                                                                   \
        for (int q_ = 0; q_ < (l)->kind->qps; q_++) {                                                                          \
            struct queue *x_ = &(l)->queue[q_];                                                                                \
            fprintf(stderr, "  QP %d %#x: %d of %d posted, %d done, %d of %d received (%d posted), failed %d, peer has %d ops\n",   \
                    q_, x_->qp ? x_->qp->qp_num : 0, x_->posted, x_->mine.ops, x_->done, x_->received, x_->theirs.receives,    \
                    x_->receives_posted, x_->failed, x_->theirs.ops);                                                          \
        }                                                                                                                      \
        if (getenv("STRESS_STOP"))                                                                                             \
            pause();                                                                                                           \
        fflush(NULL);                                                                                                          \
        _exit(1);                                                                                                              \
    } while (0)
#define LANE_CHECK(l, x)                                                                                                       \
    do {                                                                                                                       \
        if (!(x))                                                                                                              \
            LANE_FAIL(l, "%s (errno %d, %s)", #x, errno, strerror(errno));                                                     \
    } while (0)

static inline int is_xrc(const struct lane *l)
{
    return l->kind->type == IBV_QPT_XRC_SEND;
}
static inline int is_uc(const struct lane *l)
{
    return l->kind->type == IBV_QPT_UC;
}

/* Both directions of one message between the partners; -1: the other one is gone. */
static inline int swap(struct lane *l, const void *mine, void *theirs, size_t len)
{
    if (send(l->fd, mine, len, MSG_NOSIGNAL) != (ssize_t)len)
        return -1;
    ssize_t n = recv(l->fd, theirs, len, MSG_WAITALL);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        LANE_FAIL(l, "the partner is silent");
    return n == (ssize_t)len ? 0 : -1;
}

static inline void register_lane(struct lane *l)
{
    LANE_CHECK(l, l->source_mr = ibv_reg_mr(l->pd, l->source, SOURCE, LANE_ACCESS));
}

static inline void register_target(struct lane *l, struct queue *q)
{
    LANE_CHECK(l, q->target_mr = ibv_reg_mr(l->pd, q->target, l->kind->area, LANE_ACCESS));
}

static inline void make_queue(struct lane *l, struct queue *q)
{
    struct ibv_qp_cap cap = {.max_send_wr = MAX_OPS + 8, .max_recv_wr = MAX_OPS, .max_send_sge = MAX_CUT, .max_recv_sge = MAX_CUT, .max_inline_data = 220};
    if (is_xrc(l)) {
        struct ibv_qp_init_attr_ex init = {.qp_type = IBV_QPT_XRC_SEND, .comp_mask = IBV_QP_INIT_ATTR_PD, .pd = l->pd, .send_cq = l->cq, .cap = cap};
        LANE_CHECK(l, q->qp = ibv_create_qp_ex(l->ctx, &init));
        struct ibv_qp_init_attr_ex target = {.qp_type = IBV_QPT_XRC_RECV, .comp_mask = IBV_QP_INIT_ATTR_XRCD, .xrcd = l->process->xrcd[l->index % 2]};
        LANE_CHECK(l, q->tgt = ibv_create_qp_ex(l->ctx, &target));
    } else {
        struct ibv_qp_init_attr init = {.qp_type = l->kind->type, .send_cq = l->cq, .recv_cq = l->cq, .srq = l->srq, .cap = cap};
        LANE_CHECK(l, q->qp = ibv_create_qp(l->pd, &init));
    }
    q->incarnation++;
}

static inline void drop_window(struct lane *l, struct queue *q)
{
    if (q->mw)
        LANE_CHECK(l, !(errno = ibv_dealloc_mw(q->mw)));
    q->mw = NULL;
    q->window = 0;
}

static inline void destroy_queue(struct lane *l, struct queue *q)
{
    drop_window(l, q);
    if (q->qp)
        LANE_CHECK(l, !(errno = ibv_destroy_qp(q->qp)));
    if (q->tgt)
        LANE_CHECK(l, !(errno = ibv_destroy_qp(q->tgt)));
    q->qp = q->tgt = NULL;
}

struct numbers {
    union ibv_gid gid;
    uint32_t qpn[MAX_QPS], tgt[MAX_QPS], psn[MAX_QPS], srq;
};

static inline void up(struct lane *l, struct ibv_qp *qp, struct dice *d, uint32_t qpn, const union ibv_gid *gid, uint32_t rx, uint32_t tx)
{
    int uc = is_uc(l);
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = ALL_ACCESS & ~(unsigned)(uc ? IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC : 0)};
    LANE_CHECK(l, !(errno = ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS)));
    attr = (struct ibv_qp_attr){
        .qp_state = IBV_QPS_RTR,
        .path_mtu = IBV_MTU_1024 + roll(d, 3),
        .dest_qp_num = qpn,
        .rq_psn = rx,
        .max_dest_rd_atomic = 16,
        .min_rnr_timer = 1 + roll(d, 12),
        .ah_attr = {.is_global = 1, .port_num = 1, .grh = {.dgid = *gid, .sgid_index = GID_INDEX, .hop_limit = 64}},
    };
    LANE_CHECK(l, !(errno = ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | (uc ? 0 : IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER))));
    attr = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTS, .timeout = 8 + (uint8_t)roll(d, 4), .retry_cnt = 7, .rnr_retry = 7, .sq_psn = tx, .max_rd_atomic = 1 + (uint8_t)roll(d, 16)};
    LANE_CHECK(l, !(errno = ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_SQ_PSN | (uc ? 0 : IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC))));
}

static inline void to_state(struct lane *l, struct ibv_qp *qp, enum ibv_qp_state state)
{
    struct ibv_qp_attr attr = {.qp_state = state};
    if (qp)
        LANE_CHECK(l, !(errno = ibv_modify_qp(qp, &attr, IBV_QP_STATE)));
}

/* RESET is what a queue pair is that is not there. */
static inline enum ibv_qp_state state_of(struct lane *l, struct ibv_qp *qp)
{
    struct ibv_qp_attr attr;
    struct ibv_qp_init_attr init;
    if (!qp)
        return IBV_QPS_RESET;
    LANE_CHECK(l, !(errno = ibv_query_qp(qp, &attr, IBV_QP_STATE, &init)));
    return attr.qp_state;
}

static inline uint32_t srq_number(struct lane *l)
{
    uint32_t n = 0;
    if (is_xrc(l))
        LANE_CHECK(l, !(errno = ibv_get_srq_num(l->srq, &n)));
    return n;
}

/* Brings all QPs up with the partner's, new ones or the old ones by way of RESET. */
static inline int connect_lane(struct lane *l)
{
    struct numbers mine = {0}, theirs;
    struct dice d = {mix(l->seed ^ l->round ^ (uint64_t)l->side << 40 ^ 77)};
    LANE_CHECK(l, !ibv_query_gid(l->ctx, 1, GID_INDEX, &mine.gid));
    for (int i = 0; i < l->kind->qps; i++) {
        struct queue *q = &l->queue[i];
        drop_window(l, q);
        if (q->qp && roll(&d, 4) == 0)
            destroy_queue(l, q);
        if (q->qp) {
            to_state(l, q->qp, IBV_QPS_RESET);
            to_state(l, q->tgt, IBV_QPS_RESET);
            q->incarnation++;
        } else {
            make_queue(l, q);
        }
        /* What was under way in the last round is discarded with the state or the queue (a partner who dies now leaves nothing to wait for). */
        q->posted = q->done = q->extra = q->extra_done = q->received = q->receives_posted = 0;
        mine.qpn[i] = q->qp->qp_num;
        mine.tgt[i] = q->tgt ? q->tgt->qp_num : 0;
        mine.psn[i] = roll(&d, 1 << 24);
    }
    mine.srq = srq_number(l);
    if (swap(l, &mine, &theirs, sizeof mine))
        return -1;
    l->peer_srq = theirs.srq;
    for (int i = 0; i < l->kind->qps; i++) {
        struct queue *q = &l->queue[i];
        if (roll(&d, 8) == 0)
            usleep(roll(&d, 3000));
        if (is_xrc(l)) {
            up(l, q->qp, &d, theirs.tgt[i], &theirs.gid, theirs.psn[i], mine.psn[i]);
            up(l, q->tgt, &d, theirs.qpn[i], &theirs.gid, theirs.psn[i], mine.psn[i]);
        } else {
            up(l, q->qp, &d, theirs.qpn[i], &theirs.gid, theirs.psn[i], mine.psn[i]);
        }
    }
    return 0;
}

static inline void open_lane(struct lane *l)
{
    l->ctx = l->process->ctx[l->index % 2];
    l->pd = l->process->pd[l->index % 2];
    if (l->kind->events) {
        LANE_CHECK(l, l->channel = ibv_create_comp_channel(l->ctx));
        LANE_CHECK(l, !fcntl(l->channel->fd, F_SETFL, O_NONBLOCK));
    }
    LANE_CHECK(l, l->cq = ibv_create_cq(l->ctx, 1024, l, l->channel, 0));
    l->source = pages(SOURCE);
    l->mirror = pages(SOURCE);
    fill_source(l->source, mix((uint64_t)(l->index * 2 + l->side)));
    fill_source(l->mirror, mix((uint64_t)(l->index * 2 + !l->side)));
    register_lane(l);
    if (l->kind->srq) {
        l->slots = pages(SLOTS * SLOT);
        LANE_CHECK(l, l->slots_mr = ibv_reg_mr(l->pd, l->slots, SLOTS * SLOT, IBV_ACCESS_LOCAL_WRITE));
        if (is_xrc(l)) {
            struct ibv_srq_init_attr_ex init = {
                .attr = {.max_wr = SLOTS, .max_sge = 2},
                .comp_mask = IBV_SRQ_INIT_ATTR_TYPE | IBV_SRQ_INIT_ATTR_PD | IBV_SRQ_INIT_ATTR_XRCD | IBV_SRQ_INIT_ATTR_CQ,
                .srq_type = IBV_SRQT_XRC,
                .pd = l->pd,
                .xrcd = l->process->xrcd[l->index % 2],
                .cq = l->cq};
            LANE_CHECK(l, l->srq = ibv_create_srq_ex(l->ctx, &init));
        } else {
            struct ibv_srq_init_attr init = {.attr = {.max_wr = SLOTS, .max_sge = 2}};
            LANE_CHECK(l, l->srq = ibv_create_srq(l->pd, &init));
        }
    }
    for (int i = 0; i < l->kind->qps; i++) {
        struct queue *q = &l->queue[i];
        q->target = pages(l->kind->area);
        q->local = pages(2 * (size_t)l->kind->area);
        register_target(l, q);
        LANE_CHECK(l, q->local_mr = ibv_reg_mr(l->pd, q->local, 2 * (size_t)l->kind->area, IBV_ACCESS_LOCAL_WRITE));
    }
}

static inline void close_lane(struct lane *l)
{
    for (int i = 0; i < l->kind->qps; i++) {
        struct queue *q = &l->queue[i];
        destroy_queue(l, q);
        LANE_CHECK(l, !q->target_mr || !(errno = ibv_dereg_mr(q->target_mr)));
        LANE_CHECK(l, !(errno = ibv_dereg_mr(q->local_mr)));
        munmap(q->target, l->kind->area);
        munmap(q->local, 2 * (size_t)l->kind->area);
    }
    if (l->srq)
        LANE_CHECK(l, !(errno = ibv_destroy_srq(l->srq)) && !(errno = ibv_dereg_mr(l->slots_mr)));
    if (l->slots)
        munmap(l->slots, SLOTS * SLOT);
    LANE_CHECK(l, !l->source_mr || !(errno = ibv_dereg_mr(l->source_mr)));
    munmap(l->source, SOURCE);
    munmap(l->mirror, SOURCE);
    if (l->events)
        ibv_ack_cq_events(l->cq, l->events);
    LANE_CHECK(l, !(errno = ibv_destroy_cq(l->cq)));
    if (l->channel)
        LANE_CHECK(l, !(errno = ibv_destroy_comp_channel(l->channel)));
}

#endif
