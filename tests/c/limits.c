/* Every limit that ibv_query_device advertises is what can be had, and one more is refused with the errno of the man pages.
 *
 * Usage: limits; prints each limit with what it was compared with. */
#include "util.h"
#include <sys/resource.h>

static struct node n;
static struct ibv_device_attr limit;
static void **made;

/* Creates until it fails: exactly `max` of them, and the one after that fails with `error`. Then all go. */
#define COUNT(name, max, error, make, destroy)                                                                                 \
    do {                                                                                                                       \
        int count_ = 0, max_ = (int)(max);                                                                                     \
        double begun_ = now();                                                                                                 \
        what = name;                                                                                                           \
        while (count_ < max_ + 100) {                                                                                          \
            errno = 0;                                                                                                         \
            void *object_ = make;                                                                                              \
            if (!object_)                                                                                                      \
                break;                                                                                                         \
            made[count_++] = object_;                                                                                          \
        }                                                                                                                      \
        if (count_ != max_ || errno != (error))                                                                                \
            FAIL("%d could be had, not %d, then errno %d (%s)", count_, max_, errno, strerror(errno));                         \
        while (count_) {                                                                                                       \
            void *object = made[--count_];                                                                                     \
            CHECK(!(errno = (destroy)));                                                                                       \
        }                                                                                                                      \
        printf("%s %d, %.2f s\n", name, max_, now() - begun_);                                                                 \
    } while (0)

static struct ibv_qp *qp_with(enum ibv_qp_type type, uint32_t send, uint32_t recv, uint32_t send_sge, uint32_t recv_sge, uint32_t inlined)
{
    struct ibv_qp_init_attr init = {.send_cq = n.cq, .recv_cq = n.cq, .qp_type = type, .cap = {send, recv, send_sge, recv_sge, inlined}};
    return ibv_create_qp(n.pd, &init);
}

static struct ibv_srq *srq_with(uint32_t wr, uint32_t sge)
{
    struct ibv_srq_init_attr init = {.attr = {.max_wr = wr, .max_sge = sge}};
    return ibv_create_srq(n.pd, &init);
}

static void counts(void)
{
    static unsigned char memory[64];
    union ibv_gid gid;
    CHECK(!ibv_query_gid(n.ctx, 1, GID_INDEX, &gid));
    struct ibv_ah_attr path = {.is_global = 1, .port_num = 1, .grh = {.dgid = gid, .sgid_index = GID_INDEX}};
    CHECK(made = calloc(70000, sizeof *made));
    /* Beside what the node has. */
    COUNT("max_pd", limit.max_pd - 1, ENOMEM, ibv_alloc_pd(n.ctx), ibv_dealloc_pd(object));
    COUNT("max_cq", limit.max_cq - 1, ENOMEM, ibv_create_cq(n.ctx, 1, NULL, NULL, 0), ibv_destroy_cq(object));
    COUNT("max_mr", limit.max_mr, ENOMEM, ibv_reg_mr(n.pd, memory, sizeof memory, 0), ibv_dereg_mr(object));
    COUNT("max_mw", limit.max_mw, ENOMEM, ibv_alloc_mw(n.pd, IBV_MW_TYPE_2), ibv_dealloc_mw(object));
    COUNT("max_ah", limit.max_ah, ENOMEM, ibv_create_ah(n.pd, &path), ibv_destroy_ah(object));
    COUNT("max_srq", limit.max_srq, ENOMEM, srq_with(1, 1), ibv_destroy_srq(object));
    /* A QP has a number of port 1 until INIT names another port. */
    what = "max_qp";
    int count = 0;
    for (uint8_t p = limit.phys_port_cnt; p; p--)
        for (int i = 0; i < limit.max_qp / limit.phys_port_cnt; i++) {
            struct ibv_qp *qp = qp_with(IBV_QPT_RC, 1, 1, 1, 1, 0);
            struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT, .port_num = p};
            CHECK(made[count++] = qp);
            CHECK(!(errno = ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS)));
        }
    CHECK(count == limit.max_qp && !qp_with(IBV_QPT_RC, 1, 1, 1, 1, 0) && errno == ENOMEM);
    while (count)
        CHECK(!ibv_destroy_qp(made[--count]));
    /* MRs and windows do not take each other's room. */
    what = "max_mr and max_mw";
    struct ibv_mw **windows = calloc((size_t)limit.max_mw, sizeof *windows);
    for (int i = 0; i < limit.max_mw; i++)
        CHECK(windows[i] = ibv_alloc_mw(n.pd, IBV_MW_TYPE_1));
    COUNT("max_mr beside max_mw", limit.max_mr, ENOMEM, ibv_reg_mr(n.pd, memory, sizeof memory, 0), ibv_dereg_mr(object));
    for (int i = 0; i < limit.max_mw; i++)
        CHECK(!ibv_dealloc_mw(windows[i]));
    free(windows);
}

/* `yes` can be made, `no` fails with EINVAL. */
#define EDGE(name, yes, no, destroy)                                                                                           \
    do {                                                                                                                       \
        what = name;                                                                                                           \
        void *object = yes;                                                                                                    \
        CHECK(object);                                                                                                         \
        CHECK(!(errno = (destroy)));                                                                                           \
        errno = 0;                                                                                                             \
        CHECK(!(no) && errno == EINVAL);                                                                                       \
        printf("%s\n", name);                                                                                                  \
    } while (0)

static void sizes(void)
{
    uint32_t wr = (uint32_t)limit.max_qp_wr, sge = (uint32_t)limit.max_sge, srq_wr = (uint32_t)limit.max_srq_wr, srq_sge = (uint32_t)limit.max_srq_sge;
    EDGE("max_qp_wr, send", qp_with(IBV_QPT_RC, wr, 1, 1, 1, 0), qp_with(IBV_QPT_RC, wr + 1, 1, 1, 1, 0), ibv_destroy_qp(object));
    EDGE("max_qp_wr, receive", qp_with(IBV_QPT_RC, 1, wr, 1, 1, 0), qp_with(IBV_QPT_RC, 1, wr + 1, 1, 1, 0), ibv_destroy_qp(object));
    EDGE("max_sge, send", qp_with(IBV_QPT_RC, 1, 1, sge, 1, 0), qp_with(IBV_QPT_RC, 1, 1, sge + 1, 1, 0), ibv_destroy_qp(object));
    EDGE("max_sge, receive", qp_with(IBV_QPT_RC, 1, 1, 1, sge, 0), qp_with(IBV_QPT_RC, 1, 1, 1, sge + 1, 0), ibv_destroy_qp(object));
    EDGE("max_sge, datagrams", qp_with(IBV_QPT_UD, 1, 1, sge, sge, 0), qp_with(IBV_QPT_UD, 1, 1, sge + 1, 1, 0), ibv_destroy_qp(object));
    EDGE("inline data", qp_with(IBV_QPT_RC, 1, 1, 1, 1, 256), qp_with(IBV_QPT_RC, 1, 1, 1, 1, 257), ibv_destroy_qp(object));
    EDGE("max_srq_wr", srq_with(srq_wr, 1), srq_with(srq_wr + 1, 1), ibv_destroy_srq(object));
    EDGE("max_srq_sge", srq_with(1, srq_sge), srq_with(1, srq_sge + 1), ibv_destroy_srq(object));
    EDGE("max_cqe", ibv_create_cq(n.ctx, limit.max_cqe, NULL, NULL, 0), ibv_create_cq(n.ctx, limit.max_cqe + 1, NULL, NULL, 0), ibv_destroy_cq(object));
    EDGE("no cqe", ibv_create_cq(n.ctx, 1, NULL, NULL, 0), ibv_create_cq(n.ctx, 0, NULL, NULL, 0), ibv_destroy_cq(object));
    EDGE("completion vectors", ibv_create_cq(n.ctx, 1, NULL, NULL, n.ctx->num_comp_vectors - 1),
         ibv_create_cq(n.ctx, 1, NULL, NULL, n.ctx->num_comp_vectors), ibv_destroy_cq(object));
    what = "ibv_resize_cq";
    struct ibv_cq *cq = ibv_create_cq(n.ctx, 1, NULL, NULL, 0);
    CHECK(cq && !ibv_resize_cq(cq, limit.max_cqe) && ibv_resize_cq(cq, limit.max_cqe + 1) == EINVAL && !ibv_destroy_cq(cq));
    what = "ports";
    struct ibv_port_attr port, none;
    CHECK(!ibv_query_port(n.ctx, limit.phys_port_cnt, &port) && ibv_query_port(n.ctx, (uint8_t)(limit.phys_port_cnt + 1), &none) == EINVAL);
    CHECK(port.max_msg_sz == 1u << 30);
    union ibv_gid gid;
    CHECK(!ibv_query_gid(n.ctx, 1, port.gid_tbl_len - 1, &gid) && ibv_query_gid(n.ctx, 1, port.gid_tbl_len, &gid));
    what = "device memory";
    struct ibv_device_attr_ex ex;
    CHECK(!ibv_query_device_ex(n.ctx, NULL, &ex) && ex.max_dm_size);
    struct ibv_alloc_dm_attr all = {.length = ex.max_dm_size}, more = {.length = ex.max_dm_size + 4}, four = {.length = 4};
    CHECK(!ibv_alloc_dm(n.ctx, &more) && (errno == EINVAL || errno == ENOMEM));
    struct ibv_dm *dm = ibv_alloc_dm(n.ctx, &all);
    CHECK(dm && !ibv_alloc_dm(n.ctx, &four) && errno == ENOMEM && !ibv_free_dm(dm));
}

/* What is refused when a QP is connected, and when a message is posted. */
static void connections(void)
{
    struct ibv_qp *a = make_qp(&n, ALL_ACCESS), *b = make_qp(&n, ALL_ACCESS);
    struct address to_a = address_of(a), to_b = address_of(b);
    struct ibv_qp_attr rtr = {.qp_state = IBV_QPS_RTR,
                              .path_mtu = IBV_MTU_1024,
                              .dest_qp_num = to_b.qpn,
                              .min_rnr_timer = 12,
                              .ah_attr = {.is_global = 1, .port_num = 1, .grh = {.dgid = to_b.gid, .sgid_index = GID_INDEX}}};
    struct ibv_qp_attr rts = {.qp_state = IBV_QPS_RTS, .timeout = 14, .retry_cnt = 7, .rnr_retry = 7};
    int to_rtr_mask = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
    int to_rts_mask = IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC;
    what = "max_qp_rd_atom";
    rtr.max_dest_rd_atomic = (uint8_t)(limit.max_qp_rd_atom + 1);
    CHECK(ibv_modify_qp(a, &rtr, to_rtr_mask) == EINVAL);
    rtr.max_dest_rd_atomic = (uint8_t)limit.max_qp_rd_atom;
    CHECK(!ibv_modify_qp(a, &rtr, to_rtr_mask));
    what = "max_qp_init_rd_atom";
    rts.max_rd_atomic = (uint8_t)(limit.max_qp_init_rd_atom + 1);
    CHECK(ibv_modify_qp(a, &rts, to_rts_mask) == EINVAL);
    rts.max_rd_atomic = (uint8_t)limit.max_qp_init_rd_atom;
    CHECK(!ibv_modify_qp(a, &rts, to_rts_mask));
    connect_qp(b, &to_a);
    what = "max_msg_sz";
    size_t most = (size_t)1 << 30, len = most + 2 * PAGE;
    unsigned char *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(memory != MAP_FAILED);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, memory, len, ALL_ACCESS);
    CHECK(mr);
    struct ibv_sge sge[2] = {{(uintptr_t)memory, (uint32_t)most, mr->lkey}, {(uintptr_t)memory, 1, mr->lkey}};
    struct ibv_send_wr wr = {.wr_id = 5, .opcode = IBV_WR_RDMA_WRITE, .send_flags = IBV_SEND_SIGNALED, .sg_list = sge, .num_sge = 2,
                             .wr.rdma = {(uintptr_t)memory, mr->rkey}},
                       *bad;
    int refused = ibv_post_send(a, &wr, &bad);
    if (!refused)
        expect(n.cq, 5, IBV_WC_LOC_LEN_ERR);
    else
        CHECK(refused == EINVAL);
    printf("max_msg_sz: %s\n", refused ? "EINVAL" : "local length error");
    what = "max_mr_size";
    CHECK(!ibv_reg_mr(n.pd, memory, limit.max_mr_size + 1, 0) && errno == EINVAL);
    CHECK(!ibv_destroy_qp(a) && !ibv_destroy_qp(b) && !ibv_dereg_mr(mr));
    munmap(memory, len);
}

static struct ibv_qp *datagram_qp(void)
{
    struct ibv_qp *qp = qp_with(IBV_QPT_UD, 1, 1, 1, 1, 0);
    CHECK(qp);
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT, .port_num = 1, .qkey = 1};
    CHECK(!(errno = ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY)));
    return qp;
}

static union ibv_gid group(int i)
{
    union ibv_gid gid = {.raw = {0xff, 0x0e, [10] = 0xff, 0xff, 239, 1, (unsigned char)(i >> 8), (unsigned char)i}};
    return gid;
}

static void multicast(void)
{
    what = "max_mcast_grp";
    struct ibv_qp *qp = datagram_qp();
    for (int i = 0; i < limit.max_mcast_grp; i++) {
        union ibv_gid gid = group(i);
        CHECK(!(errno = ibv_attach_mcast(qp, &gid, 0)));
    }
    union ibv_gid one = group(0), other = group(limit.max_mcast_grp);
    CHECK(ibv_attach_mcast(qp, &other, 0) == ENOMEM);
    what = "max_mcast_qp_attach";
    struct ibv_qp *more[64];
    for (int i = 1; i < limit.max_mcast_qp_attach; i++) {
        more[i] = datagram_qp();
        CHECK(!(errno = ibv_attach_mcast(more[i], &one, 0)));
    }
    struct ibv_qp *last = datagram_qp();
    CHECK(ibv_attach_mcast(last, &one, 0) == ENOMEM);
    CHECK(limit.max_total_mcast_qp_attach == limit.max_mcast_grp * limit.max_mcast_qp_attach);
    for (int i = 0; i < limit.max_mcast_grp; i++) {
        union ibv_gid gid = group(i);
        CHECK(!(errno = ibv_detach_mcast(qp, &gid, 0)));
    }
    for (int i = 1; i < limit.max_mcast_qp_attach; i++)
        CHECK(!ibv_detach_mcast(more[i], &one, 0) && !ibv_destroy_qp(more[i]));
    CHECK(!ibv_destroy_qp(qp) && !ibv_destroy_qp(last));
    printf("multicast\n");
}

int main(void)
{
    n = open_node(0);
    CHECK(!ibv_query_device(n.ctx, &limit));
    CHECK(limit.max_mcast_qp_attach == 64 && limit.max_qp == 8191 * limit.phys_port_cnt);
    sizes();
    connections();
    multicast();
    counts();
    close_node(&n);
    return 0;
}
