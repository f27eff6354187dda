/* QPs that are reset and connected again under their old numbers, while their peers are not, or not yet.
 *
 * Usage: renewal CASE SECOND_DEVICE; exits with 0 when everything was as it should be. */
#include "util.h"

#define SIZE (1 << 20)

static int second; /* index of the other side's device */

struct side {
    struct node n;
    unsigned char *memory;
    struct ibv_mr *mr;
    struct ibv_qp *qp;
    struct address address, peer;
};

static void renew(struct side *s)
{
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RESET};
    CHECK(!ibv_modify_qp(s->qp, &attr, IBV_QP_STATE));
    attr = (struct ibv_qp_attr){.qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = ALL_ACCESS};
    CHECK(!ibv_modify_qp(s->qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS));
    CHECK(s->qp->qp_num == s->address.qpn);
    if (s->qp->qp_type == IBV_QPT_RC) {
        connect_qp(s->qp, &s->peer);
        return;
    }
    attr = (struct ibv_qp_attr){
        .qp_state = IBV_QPS_RTR,
        .path_mtu = IBV_MTU_1024,
        .dest_qp_num = s->peer.qpn,
        .rq_psn = s->peer.psn,
        .ah_attr = {.is_global = 1, .port_num = 1, .grh = {.dgid = s->peer.gid, .sgid_index = GID_INDEX, .hop_limit = 64}},
    };
    CHECK(!ibv_modify_qp(s->qp, &attr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN));
    attr = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTS, .sq_psn = s->address.psn};
    CHECK(!ibv_modify_qp(s->qp, &attr, IBV_QP_STATE | IBV_QP_SQ_PSN));
}

static void open_sides(struct side s[2], enum ibv_qp_type type)
{
    for (int i = 0; i < 2; i++) {
        s[i].n = open_node(i ? second : 0);
        s[i].memory = pages(SIZE);
        CHECK(s[i].mr = ibv_reg_mr(s[i].n.pd, s[i].memory, SIZE, ALL_ACCESS));
        struct ibv_qp_init_attr init = {
            .send_cq = s[i].n.cq,
            .recv_cq = s[i].n.cq,
            .qp_type = type,
            .cap = {.max_send_wr = 64, .max_recv_wr = 64, .max_send_sge = 1, .max_recv_sge = 1},
        };
        CHECK(s[i].qp = ibv_create_qp(s[i].n.pd, &init));
        struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = ALL_ACCESS};
        CHECK(!ibv_modify_qp(s[i].qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS));
        s[i].address = address_of(s[i].qp);
    }
    for (int i = 0; i < 2; i++) {
        s[i].peer = s[1 - i].address;
        renew(&s[i]);
    }
}

static void close_sides(struct side s[2])
{
    for (int i = 0; i < 2; i++) {
        CHECK(!ibv_destroy_qp(s[i].qp) && !ibv_dereg_mr(s[i].mr));
        close_node(&s[i].n);
    }
}

/* A message of `len` bytes from one to the other and back. */
static void exchange(struct side *a, struct side *b, uint32_t len)
{
    for (int i = 0; i < 2; i++) {
        struct side *from = i ? b : a, *to = i ? a : b;
        fill(from->memory, len, len + i);
        post_recv(to->qp, 1, to->memory + SIZE / 2, len, to->mr->lkey);
        post_one_send(from->qp, 2, from->mr, from->memory, len);
        expect(to->n.cq, 1, IBV_WC_SUCCESS);
        expect(from->n.cq, 2, IBV_WC_SUCCESS);
        CHECK(is_filled(to->memory + SIZE / 2, len, len + i));
    }
}

/* The first one sends as soon as it is connected again; the other one follows at once, later, or much later. */
static void both(void)
{
    static const int delays[] = {0, 1000, 30000, 250000};
    static const uint32_t sizes[] = {32, 3000, 100000};
    struct side s[2];
    open_sides(s, IBV_QPT_RC);
    exchange(&s[0], &s[1], 100);
    for (int d = 0; d < 4; d++)
        for (int k = 0; k < 4; k++) {
            struct side *a = &s[(d + k) % 2], *b = &s[1 - (d + k) % 2];
            uint32_t len = sizes[k % 3];
            renew(a);
            fill(a->memory, len, d + k);
            fill(b->memory + SIZE / 4, len, 99);
            if (k < 3)
                for (int i = 0; i < 3; i++)
                    post_one_send(a->qp, 10 + i, a->mr, a->memory, len);
            else
                post(a->qp, 10, IBV_WR_RDMA_READ, a->memory, len, a->mr->lkey, (uintptr_t)b->memory + SIZE / 4, b->mr->rkey);
            usleep(delays[d]);
            struct ibv_wc wc;
            CHECK(!ibv_poll_cq(a->n.cq, 1, &wc));
            renew(b);
            if (k < 3)
                for (int i = 0; i < 3; i++) {
                    post_recv(b->qp, 20 + i, b->memory + SIZE / 2, len, b->mr->lkey);
                    expect(b->n.cq, 20 + i, IBV_WC_SUCCESS);
                    CHECK(is_filled(b->memory + SIZE / 2, len, d + k));
                }
            for (int i = 0; i < (k < 3 ? 3 : 1); i++)
                expect(a->n.cq, 10 + i, IBV_WC_SUCCESS);
            CHECK(k < 3 || is_filled(a->memory, len, 99));
            exchange(a, b, 5000);
        }
    close_sides(s);
}

/* One is connected again and the other is not: whoever of them sends is told that it is in vain. */
static void alone(void)
{
    for (int sender = 0; sender < 2; sender++) {
        struct side s[2];
        open_sides(s, IBV_QPT_RC);
        exchange(&s[0], &s[1], 100);
        renew(&s[0]);
        for (int i = 0; i < 2; i++)
            post_recv(s[i].qp, 1, s[i].memory, 64, s[i].mr->lkey);
        post_one_send(s[sender].qp, 7, s[sender].mr, s[sender].memory, 32);
        struct ibv_wc wc;
        CHECK(poll_for(s[sender].n.cq, &wc, 10));
        CHECK(wc.wr_id == 7 && wc.status == IBV_WC_RETRY_EXC_ERR);
        CHECK(!poll_for(s[1 - sender].n.cq, &wc, 0.1));
        close_sides(s);
    }
}

/* UC goes on, whichever end was reset; some of the first messages may be lost. */
static void uc(void)
{
    struct side s[2];
    open_sides(s, IBV_QPT_UC);
    exchange(&s[0], &s[1], 100);
    for (int round = 0; round < 6; round++) {
        struct side *a = &s[0], *b = &s[1];
        renew(round % 2 ? a : b);
        for (int i = 0; i < 40; i++)
            post_recv(b->qp, i, b->memory + SIZE / 2 + i * 4096, 4096, b->mr->lkey);
        double start = now();
        int arrived = 0;
        for (int i = 0; i < 40 && arrived < 3; i++) {
            struct ibv_wc wc;
            post_one_send(a->qp, 7, a->mr, a->memory, 2000);
            expect(a->n.cq, 7, IBV_WC_SUCCESS);
            while (poll_for(b->n.cq, &wc, 0.05)) {
                CHECK(wc.status == IBV_WC_SUCCESS && (int)wc.wr_id == arrived);
                arrived++;
            }
        }
        if (arrived < 3)
            FAIL("round %d: %d messages arrived in %.1f s", round, arrived, now() - start);
        renew(round % 2 ? b : a);
        renew(round % 2 ? a : b);
        exchange(a, b, 3000);
    }
    close_sides(s);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {{"both", both}, {"alone", alone}, {"uc", uc}};
    if (argc == 3)
        for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
            if (!strcmp(argv[1], cases[i].name)) {
                what = argv[1];
                second = atoi(argv[2]);
                cases[i].run();
                return 0;
            }
    fprintf(stderr, "usage: renewal CASE SECOND_DEVICE\n");
    return 2;
}
