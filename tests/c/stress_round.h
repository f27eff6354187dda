/* One round of a lane: receives and windows, requests of both sides at once, perhaps a fault, and a look at every byte. */
#ifndef GAUDI_TEST_STRESS_ROUND_H
#define GAUDI_TEST_STRESS_ROUND_H

#include "stress_lane.h"

#define GAP 16 /* bytes between the pieces of an SGE list, which nobody may touch */
#define UNTOUCHED 0xee
#define CONTROL 1000 /* requests that are not in the script */

static inline uint64_t id_of(struct lane *l, int q, int receive, int index)
{
    return (uint64_t)l->queue[q].incarnation << 32 | (uint64_t)q << 24 | (uint64_t)receive << 23 | (uint64_t)index;
}

static inline int doomed(const struct lane *l, int q)
{
    return l->fault != NOTHING && (l->fault == DEREG_TARGET || l->fault == DEREG_SOURCE || l->fault_queue == q);
}

static inline int is_clean(const unsigned char *at, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (at[i] != UNTOUCHED)
            return 0;
    return 1;
}

/* `len` bytes of `data` in the pieces at `at`, and nothing beside them. */
static inline int arrived(const unsigned char *at, const uint32_t *cut, int pieces, const unsigned char *data, uint32_t len)
{
    for (int i = 0; i < pieces; i++) {
        uint32_t part = cut[i] < len ? cut[i] : len;
        if (memcmp(at, data, part) || !is_clean(at + part, cut[i] - part + GAP))
            return 0;
        at += cut[i] + GAP;
        data += part;
        len -= part;
    }
    return len == 0;
}

static inline int scatter(struct ibv_sge *sge, unsigned char *at, const uint32_t *cut, int pieces, uint32_t lkey, uint32_t gap)
{
    for (int i = 0; i < pieces; i++) {
        sge[i] = (struct ibv_sge){(uintptr_t)at, cut[i], lkey};
        at += cut[i] + gap;
    }
    return pieces;
}

/* The receive for the n-th message that takes one. */
static inline struct op *receive_op(struct queue *q, int n)
{
    for (int i = 0; i < q->theirs.ops; i++)
        if (takes_receive(q->theirs.op[i].kind) && n-- == 0)
            return &q->theirs.op[i];
    return NULL;
}

static inline void post_receives(struct lane *l, int i, int upto)
{
    struct queue *q = &l->queue[i];
    while (q->receives_posted < upto) {
        struct op *o = receive_op(q, q->receives_posted);
        struct ibv_sge sge[MAX_CUT];
        int n = scatter(sge, q->local + l->kind->area + o->landing, o->recv_cut, o->recv_pieces, q->local_mr->lkey, GAP);
        struct ibv_recv_wr wr = {.wr_id = id_of(l, i, 1, q->receives_posted), .sg_list = sge, .num_sge = n}, *bad;
        LANE_CHECK(l, !(errno = ibv_post_recv(q->qp, &wr, &bad)));
        q->receives_posted++;
    }
}

static inline void fill_srq(struct lane *l)
{
    for (int s = 0; s < SLOTS; s++) {
        if (l->slot_posted[s])
            continue;
        struct ibv_sge sge[2] = {{(uintptr_t)l->slots + (size_t)s * SLOT, SLOT / 4, l->slots_mr->lkey},
                                 {(uintptr_t)l->slots + (size_t)s * SLOT + SLOT / 4, SLOT - SLOT / 4, l->slots_mr->lkey}};
        struct ibv_recv_wr wr = {.wr_id = (uint64_t)s, .sg_list = sge, .num_sge = 2}, *bad;
        LANE_CHECK(l, !(errno = ibv_post_srq_recv(l->srq, &wr, &bad)));
        l->slot_posted[s] = 1;
    }
}

static inline void post_burst(struct lane *l, int i, struct dice *d)
{
    struct queue *q = &l->queue[i];
    struct ibv_send_wr wr[8], *bad;
    struct ibv_sge sge[8][MAX_CUT];
    int n = 1 + (int)roll(d, 8);
    if (n > q->mine.ops - q->posted)
        n = q->mine.ops - q->posted;
    if (l->fault != NOTHING && l->fault_side == l->side && !l->struck && doomed(l, i) && q->posted < l->fault_at && q->posted + n > l->fault_at)
        n = l->fault_at - q->posted;
    for (int k = 0; k < n; k++) {
        struct op *o = &q->mine.op[q->posted + k];
        int reads = is_read(o->kind) || is_atomic(o->kind);
        wr[k] = (struct ibv_send_wr){
            .wr_id = id_of(l, i, 0, q->posted + k),
            .next = k + 1 < n ? &wr[k + 1] : NULL,
            .sg_list = sge[k],
            .send_flags = (o->signaled ? IBV_SEND_SIGNALED : 0u) | (o->fence ? IBV_SEND_FENCE : 0u) |
                          (o->solicited ? IBV_SEND_SOLICITED : 0u) | (o->inlined ? IBV_SEND_INLINE : 0u),
            .imm_data = htonl(l->round * 100 + (uint32_t)(q->posted + k)),
        };
        wr[k].num_sge = reads ? scatter(sge[k], q->local + o->target, o->cut, o->pieces, q->local_mr->lkey, GAP)
                              : scatter(sge[k], l->source + o->source, o->cut, o->pieces, o->inlined ? 0 : l->source_mr->lkey, 0);
        if (is_xrc(l))
            wr[k].qp_type.xrc.remote_srqn = l->peer_srq;
        int where = o->kind == SHARED_FADD ? 0 : i;
        uint32_t key = o->by_window && o->kind != SHARED_FADD ? l->peer.window_key[i] : l->peer.target_key[where];
        switch (o->kind) {
        case SEND:
            wr[k].opcode = IBV_WR_SEND;
            break;
        case SEND_IMM:
            wr[k].opcode = IBV_WR_SEND_WITH_IMM;
            break;
        case SEND_INV:
            wr[k].opcode = IBV_WR_SEND_WITH_INV;
            wr[k].invalidate_rkey = l->peer.window_key[i];
            break;
        case WRITE:
        case WRITE_IMM:
            wr[k].opcode = o->kind == WRITE ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_WRITE_WITH_IMM;
            wr[k].wr.rdma.remote_addr = l->peer.target[i] + o->target;
            wr[k].wr.rdma.rkey = key;
            break;
        case READ:
            wr[k].opcode = IBV_WR_RDMA_READ;
            wr[k].wr.rdma.remote_addr = l->peer.source + o->source;
            wr[k].wr.rdma.rkey = l->peer.source_key;
            break;
        case READ_BACK:
            wr[k].opcode = IBV_WR_RDMA_READ;
            wr[k].wr.rdma.remote_addr = l->peer.target[i] + q->mine.op[o->back].target;
            wr[k].wr.rdma.rkey = key;
            break;
        default:
            wr[k].opcode = o->kind == CAS ? IBV_WR_ATOMIC_CMP_AND_SWP : IBV_WR_ATOMIC_FETCH_AND_ADD;
            wr[k].wr.atomic.remote_addr = l->peer.target[where] + o->word * 8;
            wr[k].wr.atomic.rkey = key;
            wr[k].wr.atomic.compare_add = o->kind == CAS ? o->compare : o->add;
            wr[k].wr.atomic.swap = o->add;
        }
    }
    if (n <= 0)
        return;
    LANE_CHECK(l, !(errno = ibv_post_send(q->qp, wr, &bad)));
    q->posted += n;
}

/* A request of ours has succeeded: what it brought must be right. */
static inline void check_request(struct lane *l, int i, int index)
{
    struct queue *q = &l->queue[i];
    struct op *o = &q->mine.op[index];
    unsigned char *at = q->local + o->target;
    q->ok = index + 1;
    atomic_fetch_add(&board->requests, 1);
    atomic_fetch_add(&board->bytes, o->len);
    if (o->kind == READ && !arrived(at, o->cut, o->pieces, l->mirror + o->source, o->len))
        LANE_FAIL(l, "READ %d of QP %d brought wrong data", index, i);
    if (o->kind == READ_BACK && !arrived(at, o->cut, o->pieces, l->source + q->mine.op[o->back].source, o->len))
        LANE_FAIL(l, "READ %d of QP %d does not see WRITE %u", index, i, o->back);
    if (o->kind == CAS || o->kind == FADD) {
        uint64_t old;
        memcpy(&old, at, 8);
        if (old != o->before || !is_clean(at + 8, GAP))
            LANE_FAIL(l, "atomic %d of QP %d brought %#llx, not %#llx", index, i, (unsigned long long)old, (unsigned long long)o->before);
    }
}

/* WRITEs of the partner's script before request `upto`. */
static inline void check_writes(struct lane *l, int i, int upto)
{
    struct queue *q = &l->queue[i];
    for (; q->checked < upto; q->checked++) {
        struct op *o = &q->theirs.op[q->checked];
        if ((o->kind == WRITE || o->kind == WRITE_IMM) && memcmp(q->target + o->target, l->mirror + o->source, o->len))
            LANE_FAIL(l, "WRITE %d to QP %d, %u bytes, is not there", q->checked, i, o->len);
    }
}

/* Nothing but the partner's death may fail what nobody has disturbed. It may come before its socket tells. */
static inline int partner_died(struct lane *l)
{
    struct pollfd fd = {.fd = l->fd, .events = POLLRDHUP};
    if (!l->gone && poll(&fd, 1, 2000) == 1)
        l->gone = 1;
    return l->gone;
}

static inline void on_send(struct lane *l, int i, const struct ibv_wc *wc)
{
    struct queue *q = &l->queue[i];
    int index = (int)(wc->wr_id & 0x7fffff);
    atomic_fetch_add(&board->statuses[wc->status & 31], 1);
    if (wc->status != IBV_WC_SUCCESS && !doomed(l, i) && !partner_died(l))
        LANE_FAIL(l, "request %d of QP %d, kind %d, %u bytes in %d pieces, inline %d: %s", index, i, q->mine.op[index % MAX_OPS].kind,
                  q->mine.op[index % MAX_OPS].len, q->mine.op[index % MAX_OPS].pieces, q->mine.op[index % MAX_OPS].inlined, ibv_wc_status_str(wc->status));
    if (index == CONTROL) {
        LANE_CHECK(l, q->extra && !q->extra_done && wc->status != IBV_WC_SUCCESS);
        q->extra_done = 1;
        /* The bad request stands between those of the script. */
        for (; !q->failed && q->done < l->fault_at; q->done++) {
            LANE_CHECK(l, !q->mine.op[q->done].signaled);
            check_request(l, i, q->done);
        }
        q->failed = 1;
        return;
    }
    if (index < q->done || index >= q->posted)
        LANE_FAIL(l, "completion of request %d of QP %d is not expected", index, i);
    while (q->done < index) {
        if (q->failed || q->mine.op[q->done].signaled)
            LANE_FAIL(l, "no completion of request %d of QP %d before %d (%s)", q->done, i, index, ibv_wc_status_str(wc->status));
        check_request(l, i, q->done++);
    }
    if (wc->status == IBV_WC_SUCCESS) {
        struct op *o = &q->mine.op[index];
        static const enum ibv_wc_opcode opcodes[] = {IBV_WC_SEND,      IBV_WC_SEND,      IBV_WC_SEND,      IBV_WC_RDMA_WRITE, IBV_WC_RDMA_WRITE,
                                                     IBV_WC_RDMA_READ, IBV_WC_RDMA_READ, IBV_WC_COMP_SWAP, IBV_WC_FETCH_ADD,  IBV_WC_FETCH_ADD};
        if (q->failed || !o->signaled || wc->opcode != opcodes[o->kind] || wc->qp_num != q->qp->qp_num)
            LANE_FAIL(l, "completion of request %d of QP %d: opcode %d, signaled %d, failed %d", index, i, wc->opcode, o->signaled, q->failed);
        check_request(l, i, index);
    } else {
        if (q->failed && wc->status != IBV_WC_WR_FLUSH_ERR)
            LANE_FAIL(l, "request %d of QP %d behind the failed one: %s", index, i, ibv_wc_status_str(wc->status));
        q->failed = 1;
    }
    q->done++;
}

static inline void on_receive(struct lane *l, int i, const struct ibv_wc *wc, int slot)
{
    struct queue *q = &l->queue[i];
    atomic_fetch_add(&board->statuses[wc->status & 31], 1);
    if (wc->status != IBV_WC_SUCCESS) {
        if (!doomed(l, i) && !partner_died(l))
            LANE_FAIL(l, "receive %d of QP %d: %s", q->received, i, ibv_wc_status_str(wc->status));
        q->flushed = 1;
        q->received += slot < 0;
        return;
    }
    if (q->flushed && !is_uc(l))
        LANE_FAIL(l, "receive %d of QP %d succeeds behind one that did not", q->received, i);
    struct op *o = receive_op(q, q->received);
    if (!o)
        LANE_FAIL(l, "QP %d received more than was sent", i);
    int index = (int)(o - q->theirs.op);
    /* UC drops a WRITE that is refused, and with it the immediate. */
    if (is_uc(l) && (l->gone || doomed(l, i))) {
        q->received++;
        return;
    }
    int imm = o->kind == SEND_IMM || o->kind == WRITE_IMM;
    if (wc->byte_len != o->len || wc->opcode != (o->kind == WRITE_IMM ? IBV_WC_RECV_RDMA_WITH_IMM : IBV_WC_RECV) ||
        !!(wc->wc_flags & IBV_WC_WITH_IMM) != imm || !!(wc->wc_flags & IBV_WC_WITH_INV) != (o->kind == SEND_INV))
        LANE_FAIL(l, "receive %d of QP %d (request %d, kind %d, %u bytes): %u bytes, opcode %d, flags %#x", q->received, i, index, o->kind,
                  o->len, wc->byte_len, wc->opcode, wc->wc_flags);
    if (imm && ntohl(wc->imm_data) != l->round * 100 + (uint32_t)index)
        LANE_FAIL(l, "receive %d of QP %d: immediate %u", q->received, i, ntohl(wc->imm_data));
    if (o->kind == SEND_INV) {
        if (wc->invalidated_rkey != q->window_key)
            LANE_FAIL(l, "receive %d of QP %d: key %#x invalidated, not %#x", q->received, i, wc->invalidated_rkey, q->window_key);
        q->window = 0;
    }
    if (is_send(o->kind)) {
        int right = slot < 0 ? arrived(q->local + l->kind->area + o->landing, o->recv_cut, o->recv_pieces, l->mirror + o->source, o->len)
                             : !memcmp(l->slots + (size_t)slot * SLOT, l->mirror + o->source, o->len);
        if (!right)
            LANE_FAIL(l, "SEND %d to QP %d, %u bytes, is not what was sent", index, i, o->len);
    }
    check_writes(l, i, index);
    q->received++;
}

static inline void on_completion(struct lane *l, const struct ibv_wc *wc)
{
    if (l->srq && !(wc->wr_id >> 32)) {
        int slot = (int)wc->wr_id, i = 0;
        LANE_CHECK(l, slot < SLOTS && l->slot_posted[slot]);
        l->slot_posted[slot] = 0;
        while (i < l->kind->qps && !(l->queue[i].qp && (is_xrc(l) ? l->queue[i].tgt : l->queue[i].qp)->qp_num == wc->qp_num))
            i++;
        if (i < l->kind->qps)
            on_receive(l, i, wc, slot);
        else /* of a QP that was destroyed */
            LANE_CHECK(l, l->fault == DESTROY_QP || wc->status != IBV_WC_SUCCESS);
        return;
    }
    int i = (int)(wc->wr_id >> 24 & 0xff);
    LANE_CHECK(l, i < l->kind->qps);
    if (wc->wr_id >> 32 != l->queue[i].incarnation || !l->queue[i].qp)
        return; /* of a QP that was destroyed */
    if (wc->wr_id >> 23 & 1) {
        /* On UC the message before it may have died with its sender. */
        int next = (wc->wr_id & 0x7fffff) == (uint64_t)l->queue[i].received;
        if (!next && !(is_uc(l) && partner_died(l)))
            LANE_FAIL(l, "receive %u of QP %d completes before %d", (unsigned)(wc->wr_id & 0x7fffff), i, l->queue[i].received);
        on_receive(l, i, wc, -1);
    } else {
        on_send(l, i, wc);
    }
}

/* The requests that are not in the script wait for their completion; -1 when the QP fails, which a dead partner may cause. */
static inline int await_control(struct lane *l, int i)
{
    double end = now() + PATIENCE;
    for (;;) {
        struct ibv_wc wc;
        int n = ibv_poll_cq(l->cq, 1, &wc);
        LANE_CHECK(l, n >= 0);
        if (n && wc.wr_id == id_of(l, i, 0, CONTROL))
            return wc.status == IBV_WC_SUCCESS ? 0 : -1;
        if (n) { /* the partner has sent nothing yet: it died */
            LANE_CHECK(l, wc.status != IBV_WC_SUCCESS);
            l->gone = 1;
            on_completion(l, &wc);
        }
        if (now() > end)
            LANE_FAIL(l, "a bind or an invalidation does not complete");
    }
}

static inline int bind_window(struct lane *l, int i, int type)
{
    struct queue *q = &l->queue[i];
    if (q->mw && q->mw->type != (enum ibv_mw_type)type)
        drop_window(l, q);
    if (!q->mw)
        LANE_CHECK(l, q->mw = ibv_alloc_mw(l->pd, (enum ibv_mw_type)type));
    struct ibv_mw_bind_info info = {
        .mr = q->target_mr, .addr = (uintptr_t)q->target, .length = l->kind->area, .mw_access_flags = ALL_ACCESS & ~IBV_ACCESS_LOCAL_WRITE};
    if (type == 1) {
        struct ibv_mw_bind bind = {.wr_id = id_of(l, i, 0, CONTROL), .send_flags = IBV_SEND_SIGNALED, .bind_info = info};
        LANE_CHECK(l, !(errno = ibv_bind_mw(q->qp, q->mw, &bind)));
    } else {
        struct ibv_send_wr wr = {.wr_id = id_of(l, i, 0, CONTROL),
                                 .opcode = IBV_WR_BIND_MW,
                                 .send_flags = IBV_SEND_SIGNALED,
                                 .bind_mw = {.mw = q->mw, .rkey = ibv_inc_rkey(q->mw->rkey), .bind_info = info}},
                           *bad;
        LANE_CHECK(l, !(errno = ibv_post_send(q->qp, &wr, &bad)));
        q->mw->rkey = wr.bind_mw.rkey;
    }
    if (await_control(l, i))
        return -1;
    q->window = type;
    q->window_key = q->mw->rkey;
    return 0;
}

static inline int unbind_window(struct lane *l, int i)
{
    struct queue *q = &l->queue[i];
    int type = q->window;
    q->window = 0;
    if (type == 1) {
        struct ibv_mw_bind bind = {.wr_id = id_of(l, i, 0, CONTROL), .send_flags = IBV_SEND_SIGNALED};
        LANE_CHECK(l, !(errno = ibv_bind_mw(q->qp, q->mw, &bind)));
    } else {
        struct ibv_send_wr wr = {.wr_id = id_of(l, i, 0, CONTROL),
                                 .opcode = IBV_WR_LOCAL_INV,
                                 .send_flags = IBV_SEND_SIGNALED,
                                 .invalidate_rkey = q->window_key},
                           *bad;
        LANE_CHECK(l, !(errno = ibv_post_send(q->qp, &wr, &bad)));
    }
    return await_control(l, i);
}

static inline int poll_lane(struct lane *l)
{
    struct ibv_wc wc[7];
    int n = ibv_poll_cq(l->cq, 7, wc);
    if (n < 0)
        LANE_FAIL(l, "poll_cq: %d", n);
    for (int k = 0; k < n; k++)
        on_completion(l, &wc[k]);
    return n;
}

#endif
