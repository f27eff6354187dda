// Datagrams between two devices in one process: ./ud CASE
#include <infiniband/verbs.h>
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(c) do { if (!(c)) { printf("line %d: %s (errno %d)\n", __LINE__, #c, errno); exit(1); } } while (0)
enum { QKEY = 0x1234, ROOM = 8192, DEPTH = 64 };

struct end {
    struct ibv_context *ctx;
    struct ibv_pd *pd;
    struct ibv_cq *cq;
    struct ibv_qp *qp;
    struct ibv_srq *srq;
    struct ibv_mr *mr;
    union ibv_gid gid;
    unsigned char buf[DEPTH * ROOM];
};

static struct ibv_context *device(const char *name)
{
    int n;
    struct ibv_device **list = ibv_get_device_list(&n);
    struct ibv_context *ctx = NULL;
    for (int i = 0; i < n; i++)
        if (!strcmp(ibv_get_device_name(list[i]), name))
            ctx = ibv_open_device(list[i]);
    ibv_free_device_list(list);
    CHECK(ctx);
    return ctx;
}

static void rts(struct end *e)
{
    struct ibv_qp_attr a = { .qp_state = IBV_QPS_INIT, .port_num = 1, .qkey = QKEY };
    CHECK(!ibv_modify_qp(e->qp, &a, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY));
    a.qp_state = IBV_QPS_RTR;
    CHECK(!ibv_modify_qp(e->qp, &a, IBV_QP_STATE));
    a.qp_state = IBV_QPS_RTS;
    CHECK(!ibv_modify_qp(e->qp, &a, IBV_QP_STATE | IBV_QP_SQ_PSN));
}

static struct end *end_on(struct ibv_context *ctx, int gid_index, int shared)
{
    struct end *e = calloc(1, sizeof *e);
    e->ctx = ctx;
    CHECK(e->pd = ibv_alloc_pd(e->ctx));
    CHECK(e->cq = ibv_create_cq(e->ctx, 256, NULL, NULL, 0));
    CHECK(e->mr = ibv_reg_mr(e->pd, e->buf, sizeof e->buf, IBV_ACCESS_LOCAL_WRITE));
    if (shared) {
        struct ibv_srq_init_attr s = { .attr = { .max_wr = DEPTH, .max_sge = 1 } };
        CHECK(e->srq = ibv_create_srq(e->pd, &s));
    }
    struct ibv_qp_init_attr q = { .send_cq = e->cq, .recv_cq = e->cq, .srq = e->srq, .qp_type = IBV_QPT_UD,
        .cap = { .max_send_wr = DEPTH, .max_recv_wr = DEPTH, .max_send_sge = 2, .max_recv_sge = 2, .max_inline_data = 64 } };
    CHECK(e->qp = ibv_create_qp(e->pd, &q));
    CHECK(!ibv_query_gid(e->ctx, 1, gid_index, &e->gid));
    rts(e);
    return e;
}

static struct ibv_ah *ah_to(struct end *e, const union ibv_gid *gid, int gid_index)
{
    struct ibv_ah_attr a = { .is_global = 1, .port_num = 1, .grh = { .dgid = *gid, .sgid_index = gid_index, .hop_limit = 64 } };
    struct ibv_ah *ah = ibv_create_ah(e->pd, &a);
    CHECK(ah);
    return ah;
}

static void receive(struct end *e, int slot, int len)
{
    struct ibv_sge s = { (uintptr_t)e->buf + slot * ROOM, len, e->mr->lkey };
    struct ibv_recv_wr r = { .wr_id = 1000 + slot, .sg_list = &s, .num_sge = 1 }, *bad;
    CHECK(!(e->srq ? ibv_post_srq_recv(e->srq, &r, &bad) : ibv_post_recv(e->qp, &r, &bad)));
}

static struct ibv_send_wr wr_of(struct ibv_sge *s, struct ibv_ah *ah, int qpn)
{
    struct ibv_send_wr w = { .wr_id = 7, .sg_list = s, .num_sge = 1, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED };
    w.wr.ud.ah = ah;
    w.wr.ud.remote_qpn = qpn;
    w.wr.ud.remote_qkey = QKEY;
    return w;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

// The next completion, or false after `seconds`.
static int next(struct end *e, struct ibv_wc *wc, double seconds)
{
    double end = now() + seconds;
    do {
        int n = ibv_poll_cq(e->cq, 1, wc);
        CHECK(n >= 0);
        if (n)
            return 1;
    } while (now() < end);
    return 0;
}

static struct ibv_wc expect(struct end *e, int status, int opcode)
{
    struct ibv_wc wc;
    CHECK(next(e, &wc, 5));
    if ((int)wc.status != status || (opcode >= 0 && (int)wc.opcode != opcode)) {
        printf("status %s opcode %d instead of %d and %d\n", ibv_wc_status_str(wc.status), wc.opcode, status, opcode);
        exit(1);
    }
    return wc;
}

static void nothing(struct end *e)
{
    struct ibv_wc wc;
    CHECK(!next(e, &wc, 0.1));
}

static void send_status(struct end *e, struct ibv_send_wr *w, int status)
{
    struct ibv_send_wr *bad;
    CHECK(!ibv_post_send(e->qp, w, &bad));
    expect(e, status, status == IBV_WC_SUCCESS ? IBV_WC_SEND : -1);
}

// Payload, GRH, completion fields, and a reply to where it came from.
static void fields(int gid_index)
{
    struct end *a = end_on(device("hbl_0"), gid_index, 0), *b = end_on(device("hbl_1"), gid_index, 0);
    for (int size = 0; size <= 4096; size += size < 64 ? 1 : 504) {
        receive(b, 1, ROOM);
        for (int i = 0; i < size; i++)
            a->buf[i] = i * 7 + size;
        struct ibv_sge s = { (uintptr_t)a->buf, size, a->mr->lkey };
        struct ibv_ah *ah = ah_to(a, &b->gid, gid_index);
        struct ibv_send_wr w = wr_of(&s, ah, b->qp->qp_num);
        if (size & 1) {
            w.opcode = IBV_WR_SEND_WITH_IMM;
            w.imm_data = htonl(0xabc0 + size);
        }
        if (size <= 64 && size & 2)
            w.send_flags |= IBV_SEND_INLINE;
        send_status(a, &w, IBV_WC_SUCCESS);
        struct ibv_wc wc = expect(b, IBV_WC_SUCCESS, IBV_WC_RECV);
        CHECK(wc.wr_id == 1001 && wc.byte_len == (uint32_t)size + 40 && wc.src_qp == a->qp->qp_num && wc.qp_num == b->qp->qp_num);
        CHECK(wc.wc_flags == (IBV_WC_GRH | (size & 1 ? IBV_WC_WITH_IMM : 0)) && wc.slid == 0 && wc.pkey_index == 0);
        CHECK(wc.sl == (gid_index < 2 ? 1 : 2));
        CHECK(!(size & 1) || wc.imm_data == htonl(0xabc0 + size));
        unsigned char *got = b->buf + ROOM;
        CHECK(!memcmp(got + 40, a->buf, size));
        struct ibv_grh *grh = (struct ibv_grh *)got;
        if (gid_index < 2)
            CHECK(!memcmp(&grh->sgid, &a->gid, 16) && !memcmp(&grh->dgid, &b->gid, 16));
        else
            CHECK(got[20] == 0x45 && !memcmp(got + 32, a->gid.raw + 12, 4) && !memcmp(got + 36, b->gid.raw + 12, 4));
        ibv_destroy_ah(ah);
        // The handle made from what came leads back.
        ah = ibv_create_ah_from_wc(b->pd, &wc, grh, 1);
        CHECK(ah);
        receive(a, 2, ROOM);
        struct ibv_sge r = { (uintptr_t)got + 40, size, b->mr->lkey };
        w = wr_of(&r, ah, wc.src_qp);
        send_status(b, &w, IBV_WC_SUCCESS);
        wc = expect(a, IBV_WC_SUCCESS, IBV_WC_RECV);
        CHECK(wc.src_qp == b->qp->qp_num && !memcmp(a->buf + 2 * ROOM + 40, a->buf, size));
        ibv_destroy_ah(ah);
    }
}

// What is dropped, and what fails.
static void errors(void)
{
    struct end *a = end_on(device("hbl_0"), 3, 0), *b = end_on(device("hbl_1"), 3, 0);
    struct ibv_ah *ah = ah_to(a, &b->gid, 3);
    struct ibv_sge s = { (uintptr_t)a->buf, 100, a->mr->lkey };
    struct ibv_send_wr w = wr_of(&s, ah, b->qp->qp_num);
    receive(b, 0, ROOM);
    w.wr.ud.remote_qkey = QKEY + 1;
    send_status(a, &w, IBV_WC_SUCCESS);
    nothing(b);
    // The right id with another generation is another QP.
    w = wr_of(&s, ah, b->qp->qp_num ^ 1 << 20);
    send_status(a, &w, IBV_WC_SUCCESS);
    nothing(b);
    w = wr_of(&s, ah, b->qp->qp_num);
    send_status(a, &w, IBV_WC_SUCCESS);
    expect(b, IBV_WC_SUCCESS, IBV_WC_RECV);
    // Too small a receive: its own error, and no other's.
    receive(b, 1, 139);
    receive(b, 2, 140);
    send_status(a, &w, IBV_WC_SUCCESS);
    CHECK(expect(b, IBV_WC_LOC_LEN_ERR, -1).wr_id == 1001);
    send_status(a, &w, IBV_WC_SUCCESS);
    CHECK(expect(b, IBV_WC_SUCCESS, IBV_WC_RECV).wr_id == 1002);
    // Each failure stops the send queue until the program restarts it.
    for (int k = 0; k < 4; k++) {
        struct ibv_send_wr bad = w, *at;
        s.length = k == 0 ? 4097 : 100;
        s.lkey = a->mr->lkey ^ (k == 3);
        if (k == 1)
            bad.opcode = IBV_WR_RDMA_WRITE;
        if (k == 2)
            bad.opcode = IBV_WR_RDMA_READ;
        int status[] = { IBV_WC_LOC_LEN_ERR, IBV_WC_LOC_QP_OP_ERR, IBV_WC_LOC_QP_OP_ERR, IBV_WC_LOC_PROT_ERR };
        send_status(a, &bad, status[k]);
        s.length = 100;
        s.lkey = a->mr->lkey;
        CHECK(!ibv_post_send(a->qp, &w, &at));
        expect(a, IBV_WC_WR_FLUSH_ERR, -1);
        struct ibv_qp_attr q;
        struct ibv_qp_init_attr init;
        CHECK(!ibv_query_qp(a->qp, &q, IBV_QP_STATE, &init) && q.qp_state == IBV_QPS_SQE);
        q.qp_state = IBV_QPS_RTS;
        CHECK(!ibv_modify_qp(a->qp, &q, IBV_QP_STATE));
        receive(b, 3, ROOM);
        send_status(a, &w, IBV_WC_SUCCESS);
        expect(b, IBV_WC_SUCCESS, IBV_WC_RECV);
    }
    // Flushed in the error state, and usable again after RESET.
    receive(b, 4, ROOM);
    struct ibv_qp_attr q = { .qp_state = IBV_QPS_ERR };
    CHECK(!ibv_modify_qp(b->qp, &q, IBV_QP_STATE));
    expect(b, IBV_WC_WR_FLUSH_ERR, -1);
    q.qp_state = IBV_QPS_RESET;
    CHECK(!ibv_modify_qp(b->qp, &q, IBV_QP_STATE));
    rts(b);
    receive(b, 5, ROOM);
    w = wr_of(&s, ah, b->qp->qp_num);
    send_status(a, &w, IBV_WC_SUCCESS);
    expect(b, IBV_WC_SUCCESS, IBV_WC_RECV);
}

// Datagrams that come before their receives wait in the wire, in order, with and without SRQ.
static void late(int shared)
{
    struct end *a = end_on(device("hbl_0"), 3, 0), *b = end_on(device("hbl_1"), 3, shared);
    struct ibv_ah *ah = ah_to(a, &b->gid, 3);
    for (int i = 0; i < 20; i++) {
        a->buf[0] = i;
        struct ibv_sge s = { (uintptr_t)a->buf, 8, a->mr->lkey };
        struct ibv_send_wr w = wr_of(&s, ah, b->qp->qp_num);
        send_status(a, &w, IBV_WC_SUCCESS);
    }
    nothing(b);
    for (int i = 0; i < 20; i++) {
        receive(b, i, ROOM);
        expect(b, IBV_WC_SUCCESS, IBV_WC_RECV);
        CHECK(b->buf[i * ROOM + 40] == i);
    }
}

// Sender and three receivers, one of them on the sender's QP's device and one the sender itself.
static void multicast(const char *group)
{
    union ibv_gid gid;
    CHECK(inet_pton(AF_INET6, group, &gid) == 1);
    struct ibv_context *one = device("hbl_0"), *two = device("hbl_1");
    struct end *e[] = { end_on(one, 3, 0), end_on(one, 3, 0), end_on(two, 3, 0), end_on(two, 3, 0) };
    for (int i = 0; i < 4; i++) {
        receive(e[i], 1, ROOM);
        receive(e[i], 2, ROOM);
        // The last one is no member.
        CHECK(i == 3 || !ibv_attach_mcast(e[i]->qp, &gid, 0));
    }
    CHECK(!ibv_attach_mcast(e[0]->qp, &gid, 0));
    union ibv_gid unicast = e[1]->gid;
    CHECK(ibv_attach_mcast(e[0]->qp, &unicast, 0));
    CHECK(ibv_detach_mcast(e[3]->qp, &gid, 0));
    struct ibv_ah *ah = ah_to(e[0], &gid, 3);
    strcpy((char *)e[0]->buf, "to all");
    struct ibv_sge s = { (uintptr_t)e[0]->buf, 7, e[0]->mr->lkey };
    struct ibv_send_wr w = wr_of(&s, ah, 0xffffff);
    send_status(e[0], &w, IBV_WC_SUCCESS);
    for (int i = 1; i < 3; i++) {
        struct ibv_wc wc = expect(e[i], IBV_WC_SUCCESS, IBV_WC_RECV);
        CHECK(wc.src_qp == e[0]->qp->qp_num && wc.byte_len == 47 && !strcmp((char *)e[i]->buf + ROOM + 40, "to all"));
        nothing(e[i]);
    }
    nothing(e[0]);
    nothing(e[3]);
    CHECK(!ibv_detach_mcast(e[1]->qp, &gid, 0));
    send_status(e[0], &w, IBV_WC_SUCCESS);
    expect(e[2], IBV_WC_SUCCESS, IBV_WC_RECV);
    nothing(e[1]);
    // Members go without a word, too.
    CHECK(!ibv_destroy_qp(e[2]->qp));
    send_status(e[0], &w, IBV_WC_SUCCESS);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "fields"))
        fields(atoi(argv[2]));
    else if (!strcmp(what, "errors"))
        errors();
    else if (!strcmp(what, "late"))
        late(atoi(argv[2]));
    else if (!strcmp(what, "multicast"))
        multicast(argv[2]);
    else
        return 2;
    puts("ok");
    return 0;
}
