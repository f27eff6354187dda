// Datagrams and multicast between processes that share nothing but the network. A receiver with two QPs joins a group and prints its
// numbers; a sender sends the same text, counted, to the group and to each QP that it is told about, until it is killed.
//
//   groups take GID_INDEX GROUP MESSAGES        prints "ready QPN QPN", then "done"
//   groups send GID_INDEX GROUP [GID QPN]...
#include "util.h"
#include <arpa/inet.h>
#include <time.h>

enum { QKEY = 0x5151, ROOM = 1024, DEPTH = 64 };

struct end {
    struct ibv_pd *pd;
    struct ibv_cq *cq;
    struct ibv_qp *qp;
    struct ibv_mr *mr;
    uint8_t *buf;
};

static struct ibv_context *open_it(void)
{
    int n = 0;
    struct ibv_device **all = ibv_get_device_list(&n);
    CHECK(all && n > 0);
    struct ibv_context *c = ibv_open_device(all[0]);
    CHECK(c);
    return c;
}

static void give(struct end *e, int slot)
{
    struct ibv_sge s = { (uintptr_t)(e->buf + slot * ROOM), ROOM, e->mr->lkey };
    struct ibv_recv_wr w = { .wr_id = slot, .sg_list = &s, .num_sge = 1 }, *bad;
    CHECK(!ibv_post_recv(e->qp, &w, &bad));
}

static struct end make(struct ibv_context *c, int receives)
{
    struct end e = { .pd = ibv_alloc_pd(c), .cq = ibv_create_cq(c, 2 * DEPTH, 0, 0, 0), .buf = calloc(DEPTH, ROOM) };
    CHECK(e.pd && e.cq && e.buf);
    CHECK(e.mr = ibv_reg_mr(e.pd, e.buf, DEPTH * ROOM, IBV_ACCESS_LOCAL_WRITE));
    struct ibv_qp_init_attr i = { .send_cq = e.cq, .recv_cq = e.cq, .qp_type = IBV_QPT_UD, .cap = { DEPTH, DEPTH, 1, 1, 0 } };
    CHECK(e.qp = ibv_create_qp(e.pd, &i));
    struct ibv_qp_attr a = { .qp_state = IBV_QPS_INIT, .port_num = 1, .qkey = QKEY };
    CHECK(!ibv_modify_qp(e.qp, &a, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY));
    for (int k = 0; receives && k < DEPTH; k++)
        give(&e, k);
    a.qp_state = IBV_QPS_RTR;
    CHECK(!ibv_modify_qp(e.qp, &a, IBV_QP_STATE));
    a.qp_state = IBV_QPS_RTS;
    CHECK(!ibv_modify_qp(e.qp, &a, IBV_QP_STATE | IBV_QP_SQ_PSN));
    return e;
}

static void text(uint8_t *at, uint32_t serial, uint32_t kind)
{
    memcpy(at, &serial, 4);
    memcpy(at + 4, &kind, 4);
    for (int i = 8; i < 500; i++)
        at[i] = serial * 7 + kind + i;
}

// Each QP must get so many datagrams of both kinds, whole and in order, none twice.
static void take(const union ibv_gid *group, int messages)
{
    struct ibv_context *c = open_it();
    struct end e[] = { make(c, 1), make(c, 1) };
    for (int k = 0; k < 2; k++)
        CHECK(!ibv_attach_mcast(e[k].qp, group, 0));
    printf("ready %u %u\n", e[0].qp->qp_num, e[1].qp->qp_num);
    fflush(stdout);
    int got[2][2] = { { 0 } };
    uint32_t last[2][2] = { { 0 } };
    uint8_t wanted[500];
    while (got[0][0] < messages || got[0][1] < messages || got[1][0] < messages || got[1][1] < messages)
        for (int k = 0; k < 2; k++) {
            struct ibv_wc wc;
            int n = ibv_poll_cq(e[k].cq, 1, &wc);
            CHECK(n >= 0);
            if (!n) {
                struct timespec t = { 0, 20000 };
                nanosleep(&t, 0);
                continue;
            }
            CHECK(wc.status == IBV_WC_SUCCESS && wc.opcode == IBV_WC_RECV && wc.wc_flags & IBV_WC_GRH && wc.byte_len == 540);
            uint8_t *at = e[k].buf + wc.wr_id * ROOM + 40;
            uint32_t serial, kind;
            memcpy(&serial, at, 4);
            memcpy(&kind, at + 4, 4);
            CHECK(kind < 2);
            text(wanted, serial, kind);
            CHECK(!memcmp(at, wanted, 500));
            CHECK(serial > last[k][kind]);
            last[k][kind] = serial;
            got[k][kind]++;
            give(&e[k], wc.wr_id);
        }
    for (int k = 0; k < 2; k++)
        CHECK(!ibv_detach_mcast(e[k].qp, group, 0));
    puts("done");
}

static struct ibv_ah *address(struct end *e, const union ibv_gid *to, int index)
{
    struct ibv_ah_attr a = { .is_global = 1, .port_num = 1, .grh = { .dgid = *to, .sgid_index = index, .hop_limit = 4 } };
    struct ibv_ah *ah = ibv_create_ah(e->pd, &a);
    CHECK(ah);
    return ah;
}

static void transmit(const union ibv_gid *group, int index, int argc, char **argv)
{
    struct end e = make(open_it(), 0);
    int n = argc / 2 + 1;
    struct ibv_ah *ah[n];
    uint32_t number[n];
    ah[0] = address(&e, group, index);
    number[0] = 0xffffff;
    for (int i = 1; i < n; i++) {
        union ibv_gid gid;
        CHECK(inet_pton(AF_INET6, argv[2 * i - 2], &gid) == 1);
        ah[i] = address(&e, &gid, index);
        number[i] = strtoul(argv[2 * i - 1], 0, 0);
    }
    for (uint32_t serial = 1;; serial++) {
        for (int i = 0; i < n; i++) {
            text(e.buf, serial, i != 0);
            struct ibv_sge s = { (uintptr_t)e.buf, 500, e.mr->lkey };
            struct ibv_send_wr w = { .sg_list = &s, .num_sge = 1, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED }, *bad;
            w.wr.ud.ah = ah[i];
            w.wr.ud.remote_qpn = number[i];
            w.wr.ud.remote_qkey = QKEY;
            CHECK(!ibv_post_send(e.qp, &w, &bad));
            struct ibv_wc wc;
            while (!ibv_poll_cq(e.cq, 1, &wc))
                ;
            CHECK(wc.status == IBV_WC_SUCCESS);
        }
        struct timespec t = { 0, 500000 };
        nanosleep(&t, 0);
    }
}

int main(int argc, char **argv)
{
    union ibv_gid group;
    CHECK(argc > 3 && inet_pton(AF_INET6, argv[3], &group) == 1);
    if (!strcmp(argv[1], "take"))
        take(&group, atoi(argv[4]));
    else
        transmit(&group, atoi(argv[2]), argc - 4, argv + 4);
    return 0;
}
