/* Each object of the control path, twice, with one message of each kind, for programs that look for leaks and bad accesses.
 *
 * Usage: control [leak | stray]: does one of those at the end, to be found. */
#define _GNU_SOURCE
#include "util.h"
#include <fcntl.h>

static void all(void)
{
    struct node n = open_node(0);
    struct ibv_device_attr attr;
    struct ibv_device_attr_ex ex;
    struct ibv_port_attr port;
    union ibv_gid gid;
    CHECK(!ibv_query_device(n.ctx, &attr) && !ibv_query_device_ex(n.ctx, NULL, &ex) && !ibv_query_port(n.ctx, 1, &port));
    for (int i = 0; i < port.gid_tbl_len; i++)
        CHECK(!ibv_query_gid(n.ctx, 1, i, &gid));
    struct ibv_comp_channel *channel = ibv_create_comp_channel(n.ctx);
    CHECK(channel);
    struct ibv_cq *cq = ibv_create_cq(n.ctx, 16, NULL, channel, 0);
    CHECK(cq && !ibv_req_notify_cq(cq, 0) && !ibv_resize_cq(cq, 64));
    struct ibv_cq_init_attr_ex cq_init = {.cqe = 8, .wc_flags = IBV_WC_EX_WITH_BYTE_LEN};
    struct ibv_cq_ex *cq_ex = ibv_create_cq_ex(n.ctx, &cq_init);
    CHECK(cq_ex && !ibv_destroy_cq(ibv_cq_ex_to_cq(cq_ex)));
    unsigned char *memory = malloc(64 * PAGE);
    memset(memory, 1, 64 * PAGE);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, memory, 64 * PAGE, ALL_ACCESS | IBV_ACCESS_MW_BIND);
    CHECK(mr);
    CHECK(!ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_ACCESS, NULL, NULL, 0, ALL_ACCESS | IBV_ACCESS_MW_BIND));
    struct ibv_mw *mw = ibv_alloc_mw(n.pd, IBV_MW_TYPE_1);
    struct ibv_srq_init_attr srq_init = {.attr = {.max_wr = 16, .max_sge = 2}};
    struct ibv_srq *srq = ibv_create_srq(n.pd, &srq_init);
    CHECK(mw && srq);
    struct ibv_alloc_dm_attr dm_attr = {.length = 4096};
    struct ibv_dm *dm = ibv_alloc_dm(n.ctx, &dm_attr);
    CHECK(dm && !ibv_free_dm(dm));
    struct ibv_xrcd_init_attr domain = {.comp_mask = IBV_XRCD_INIT_ATTR_FD | IBV_XRCD_INIT_ATTR_OFLAGS, .fd = -1, .oflags = O_CREAT};
    struct ibv_xrcd *xrcd = ibv_open_xrcd(n.ctx, &domain);
    CHECK(xrcd);
    struct ibv_srq_init_attr_ex xrc_init = {.attr = {.max_wr = 16, .max_sge = 2},
                                            .comp_mask = IBV_SRQ_INIT_ATTR_TYPE | IBV_SRQ_INIT_ATTR_PD | IBV_SRQ_INIT_ATTR_XRCD | IBV_SRQ_INIT_ATTR_CQ,
                                            .srq_type = IBV_SRQT_XRC,
                                            .pd = n.pd,
                                            .xrcd = xrcd,
                                            .cq = cq};
    struct ibv_srq *xrc_srq = ibv_create_srq_ex(n.ctx, &xrc_init);
    struct ibv_qp_init_attr_ex ini = {.qp_type = IBV_QPT_XRC_SEND, .comp_mask = IBV_QP_INIT_ATTR_PD, .pd = n.pd, .send_cq = cq, .cap = {4, 0, 1, 0, 0}};
    struct ibv_qp_init_attr_ex tgt = {.qp_type = IBV_QPT_XRC_RECV, .comp_mask = IBV_QP_INIT_ATTR_XRCD, .xrcd = xrcd};
    struct ibv_qp *sender = ibv_create_qp_ex(n.ctx, &ini), *receiver = ibv_create_qp_ex(n.ctx, &tgt);
    CHECK(xrc_srq && sender && receiver && !ibv_destroy_qp(sender) && !ibv_destroy_qp(receiver) && !ibv_destroy_srq(xrc_srq) && !ibv_close_xrcd(xrcd));
    struct ibv_qp_init_attr shared = {.send_cq = cq, .recv_cq = cq, .srq = srq, .qp_type = IBV_QPT_UC, .cap = {4, 0, 1, 0, 0}};
    struct ibv_qp_init_attr datagram = {.send_cq = cq, .recv_cq = cq, .qp_type = IBV_QPT_UD, .cap = {4, 4, 1, 1, 0}};
    struct ibv_qp *uc = ibv_create_qp(n.pd, &shared), *ud = ibv_create_qp(n.pd, &datagram);
    CHECK(uc && ud);
    struct ibv_qp_attr init = {.qp_state = IBV_QPS_INIT, .port_num = 1, .qkey = 5};
    CHECK(!ibv_modify_qp(ud, &init, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY));
    struct ibv_qp *a = make_qp(&n, ALL_ACCESS), *b = make_qp(&n, ALL_ACCESS);
    struct address at_a = address_of(a), at_b = address_of(b);
    struct ibv_ah_attr path = {.is_global = 1, .port_num = 1, .grh = {.dgid = at_b.gid, .sgid_index = GID_INDEX}};
    struct ibv_ah *ah = ibv_create_ah(n.pd, &path);
    CHECK(ah && !ibv_destroy_ah(ah));
    connect_qp(a, &at_b);
    connect_qp(b, &at_a);
    struct ibv_mw_bind bind = {.wr_id = 9, .send_flags = IBV_SEND_SIGNALED,
                               .bind_info = {.mr = mr, .addr = (uintptr_t)memory, .length = PAGE, .mw_access_flags = IBV_ACCESS_REMOTE_WRITE}};
    CHECK(!ibv_bind_mw(b, mw, &bind));
    expect(n.cq, 9, IBV_WC_SUCCESS);
    static const uint32_t lengths[] = {0, 8, 3000, 32 * PAGE};
    for (unsigned i = 0; i < 4; i++) {
        fill(memory, lengths[i], i);
        post_recv(b, 1, memory + 32 * PAGE, 32 * PAGE, mr->lkey);
        post_one_send(a, 1, mr, memory, lengths[i]);
        expect(n.cq, 1, IBV_WC_SUCCESS);
        expect(n.cq, 1, IBV_WC_SUCCESS);
        CHECK(is_filled(memory + 32 * PAGE, lengths[i], i));
        post(a, 2, IBV_WR_RDMA_WRITE, memory, lengths[i], mr->lkey, (uintptr_t)memory + 32 * PAGE, mr->rkey);
        expect(n.cq, 2, IBV_WC_SUCCESS);
        post(a, 3, IBV_WR_RDMA_READ, memory + 32 * PAGE, lengths[i], mr->lkey, (uintptr_t)memory, mr->rkey);
        expect(n.cq, 3, IBV_WC_SUCCESS);
    }
    post(a, 4, IBV_WR_RDMA_WRITE, memory, 8, mr->lkey, (uintptr_t)memory, mr->rkey ^ 1);
    expect(n.cq, 4, IBV_WC_REM_ACCESS_ERR);
    struct ibv_qp_init_attr asked;
    struct ibv_qp_attr state = {.qp_state = IBV_QPS_RESET};
    CHECK(!ibv_modify_qp(a, &state, IBV_QP_STATE) && !ibv_query_qp(b, &state, IBV_QP_STATE, &asked));
    CHECK(!ibv_destroy_qp(uc) && !ibv_destroy_qp(ud) && !ibv_destroy_qp(a) && !ibv_destroy_qp(b) && !ibv_destroy_srq(srq));
    CHECK(!ibv_dealloc_mw(mw) && !ibv_dereg_mr(mr) && !ibv_destroy_cq(cq) && !ibv_destroy_comp_channel(channel));
    close_node(&n);
    free(memory);
}

int main(int argc, char **argv)
{
    what = "control";
    all();
    all();
    if (argc > 1) {
        volatile char *lost = malloc(10);
        volatile char after = lost[strcmp(argv[1], "stray") ? 0 : 10];
        (void)after;
        lost = NULL;
    }
    return 0;
}
