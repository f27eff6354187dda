/* Extended verbs between two contexts of one process.
 *
 * Usage: extended CASE SECOND_DEVICE; exits with 0 when everything was as it should be. */
#define _GNU_SOURCE
#include "util.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>

#define LEN (64 * PAGE)

static int second; /* index of the other side's device */

/* Two connected queue pairs, each with a registered buffer. */
struct side {
    struct node n;
    unsigned char *buffer;
    struct ibv_mr *mr;
    struct ibv_qp *qp;
};
static struct side a, b;

static void open_side(struct side *s, int device)
{
    s->n = open_node(device);
    s->buffer = pages(LEN);
    CHECK(s->mr = ibv_reg_mr(s->n.pd, s->buffer, LEN, ALL_ACCESS));
}

static void connect_sides(void)
{
    struct address aa = address_of(a.qp), ab = address_of(b.qp);
    connect_qp(a.qp, &ab);
    connect_qp(b.qp, &aa);
}

static void both(void)
{
    open_side(&a, 0);
    open_side(&b, second);
    a.qp = make_qp(&a.n, ALL_ACCESS);
    b.qp = make_qp(&b.n, ALL_ACCESS);
    connect_sides();
}

static void close_side(struct side *s)
{
    CHECK(!ibv_destroy_qp(s->qp));
    CHECK(!ibv_dereg_mr(s->mr));
    close_node(&s->n);
}

/* A WRITE of 64 bytes from A to `remote`; the status that it ends with. */
static enum ibv_wc_status write_to(uint64_t remote, uint32_t rkey)
{
    struct ibv_wc wc;
    post(a.qp, 1, IBV_WR_RDMA_WRITE, a.buffer, 64, a.mr->lkey, remote, rkey);
    CHECK(poll_for(a.n.cq, &wc, 10));
    return wc.status;
}

/* -- extended CQs ------------------------------------------------------------------------- */

static void cq_ex(void)
{
    open_side(&a, 0);
    open_side(&b, second);
    struct ibv_device_attr_ex attr;
    CHECK(!ibv_query_device_ex(a.n.ctx, NULL, &attr));
    CHECK(attr.completion_timestamp_mask && attr.hca_core_clock && attr.cq_mod_caps.max_cq_period);
    struct ibv_cq_init_attr_ex init = {
        .cqe = 64,
        .wc_flags = IBV_WC_STANDARD_FLAGS | IBV_WC_EX_WITH_COMPLETION_TIMESTAMP | IBV_WC_EX_WITH_COMPLETION_TIMESTAMP_WALLCLOCK,
    };
    struct ibv_cq_ex *cq = ibv_create_cq_ex(b.n.ctx, &init);
    CHECK(cq);
    init.wc_flags = IBV_WC_EX_WITH_CVLAN;
    CHECK(!ibv_create_cq_ex(b.n.ctx, &init) && errno == EOPNOTSUPP);
    a.qp = make_qp(&a.n, ALL_ACCESS);
    struct node n = b.n;
    n.cq = ibv_cq_ex_to_cq(cq);
    b.qp = make_qp(&n, ALL_ACCESS);
    connect_sides();
    for (int i = 0; i < 10; i++)
        post_recv(b.qp, i, b.buffer + i * PAGE, PAGE, b.mr->lkey);
    struct ibv_values_ex before = {.comp_mask = IBV_VALUES_MASK_RAW_CLOCK}, after = before;
    struct timespec wall;
    CHECK(!ibv_query_rt_values_ex(b.n.ctx, &before));
    clock_gettime(CLOCK_REALTIME, &wall);
    for (int i = 0; i < 10; i++) {
        post(a.qp, i, IBV_WR_SEND_WITH_IMM, a.buffer, 100 + i, a.mr->lkey, 0, 0);
        expect(a.n.cq, i, IBV_WC_SUCCESS);
    }
    struct ibv_poll_cq_attr none = {0};
    uint64_t last = 0;
    int seen = 0, rc;
    double end = now() + 10;
    while (seen < 8) {
        CHECK(now() < end);
        if ((rc = ibv_start_poll(cq, &none)) == ENOENT)
            continue;
        CHECK(!rc);
        do {
            CHECK(cq->status == IBV_WC_SUCCESS && cq->wr_id == (uint64_t)seen);
            CHECK(ibv_wc_read_opcode(cq) == IBV_WC_RECV && ibv_wc_read_byte_len(cq) == 100u + seen);
            CHECK(ibv_wc_read_wc_flags(cq) == IBV_WC_WITH_IMM);
            CHECK(ibv_wc_read_imm_data(cq) == htonl(0xabcd0000u + seen));
            CHECK(ibv_wc_read_qp_num(cq) == b.qp->qp_num && ibv_wc_read_src_qp(cq) == a.qp->qp_num);
            CHECK(!ibv_wc_read_vendor_err(cq) && !ibv_wc_read_slid(cq) && !ibv_wc_read_dlid_path_bits(cq));
            uint64_t stamp = ibv_wc_read_completion_ts(cq), clock = ibv_wc_read_completion_wallclock_ns(cq);
            CHECK(stamp >= last && stamp >= (uint64_t)before.raw_clock.tv_nsec);
            CHECK(clock / 1000000000 - wall.tv_sec < 60);
            last = stamp;
            seen++;
        } while (seen < 8 && !ibv_next_poll(cq));
        ibv_end_poll(cq);
    }
    CHECK(!ibv_query_rt_values_ex(b.n.ctx, &after) && last <= (uint64_t)after.raw_clock.tv_nsec);
    /* The same object is a plain CQ. */
    expect(n.cq, 8, IBV_WC_SUCCESS);
    expect(n.cq, 9, IBV_WC_SUCCESS);
    CHECK(ibv_start_poll(cq, &none) == ENOENT);
    CHECK(!ibv_destroy_qp(b.qp) && !ibv_destroy_cq(n.cq));
    b.qp = make_qp(&b.n, ALL_ACCESS);
}

/* -- ibv_wr_* ----------------------------------------------------------------------------- */

static void wr_calls(void)
{
    open_side(&a, 0);
    open_side(&b, second);
    struct ibv_qp_init_attr_ex init = {
        .send_cq = a.n.cq,
        .recv_cq = a.n.cq,
        .qp_type = IBV_QPT_RC,
        .cap = {.max_send_wr = 8, .max_recv_wr = 8, .max_send_sge = 4, .max_recv_sge = 1, .max_inline_data = 64},
        .comp_mask = IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS,
        .pd = a.n.pd,
        .send_ops_flags = IBV_QP_EX_WITH_TSO,
    };
    CHECK(!ibv_create_qp_ex(a.n.ctx, &init) && errno == EOPNOTSUPP);
    init.send_ops_flags = IBV_QP_EX_WITH_RDMA_WRITE | IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM | IBV_QP_EX_WITH_SEND |
                          IBV_QP_EX_WITH_RDMA_READ | IBV_QP_EX_WITH_ATOMIC_FETCH_AND_ADD;
    CHECK(a.qp = ibv_create_qp_ex(a.n.ctx, &init));
    struct ibv_qp_ex *qx = ibv_qp_to_qp_ex(a.qp);
    CHECK(qx);
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = ALL_ACCESS};
    CHECK(!ibv_modify_qp(a.qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS));
    b.qp = make_qp(&b.n, ALL_ACCESS);
    CHECK(!ibv_qp_to_qp_ex(b.qp));
    connect_sides();
    uint64_t there = (uintptr_t)b.buffer;
    fill(a.buffer, LEN, 3);
    /* A list: gather, inline from a buffer that is reused at once, a READ of what was written. */
    char word[16];
    ibv_wr_start(qx);
    qx->wr_id = 1;
    qx->wr_flags = IBV_SEND_SIGNALED;
    ibv_wr_rdma_write(qx, b.mr->rkey, there);
    struct ibv_sge parts[3] = {{(uintptr_t)a.buffer, 100, a.mr->lkey},
                               {(uintptr_t)a.buffer + 100, 4000, a.mr->lkey},
                               {(uintptr_t)a.buffer + 4100, 900, a.mr->lkey}};
    ibv_wr_set_sge_list(qx, 3, parts);
    for (int i = 0; i < 3; i++) {
        qx->wr_id = 2 + i;
        ibv_wr_rdma_write(qx, b.mr->rkey, there + 2 * PAGE + 16 * i);
        memset(word, 'x' + i, sizeof word);
        struct ibv_data_buf halves[2] = {{word, 7}, {word + 7, 9}};
        if (i == 1)
            ibv_wr_set_inline_data(qx, word, sizeof word);
        else
            ibv_wr_set_inline_data_list(qx, 2, halves);
    }
    memset(word, '?', sizeof word);
    qx->wr_id = 5;
    qx->wr_flags = IBV_SEND_SIGNALED | IBV_SEND_FENCE;
    ibv_wr_rdma_read(qx, b.mr->rkey, there);
    ibv_wr_set_sge(qx, a.mr->lkey, (uintptr_t)a.buffer + 4 * PAGE, 5000);
    CHECK(!ibv_wr_complete(qx));
    for (int i = 1; i <= 5; i++)
        expect(a.n.cq, i, IBV_WC_SUCCESS);
    CHECK(is_filled(b.buffer, 5000, 3) && !memcmp(a.buffer + 4 * PAGE, a.buffer, 5000));
    for (int i = 0; i < 48; i++)
        CHECK(b.buffer[2 * PAGE + i] == 'x' + i / 16);
    /* Abandoned, too long, too many: nothing of it is posted. */
    qx->wr_flags = IBV_SEND_SIGNALED;
    ibv_wr_start(qx);
    ibv_wr_rdma_write(qx, b.mr->rkey, there);
    ibv_wr_set_sge(qx, a.mr->lkey, (uintptr_t)a.buffer + 1, 64);
    ibv_wr_abort(qx);
    ibv_wr_start(qx);
    ibv_wr_rdma_write(qx, b.mr->rkey, there);
    ibv_wr_set_sge(qx, a.mr->lkey, (uintptr_t)a.buffer + 1, 64);
    ibv_wr_rdma_write(qx, b.mr->rkey, there);
    ibv_wr_set_inline_data(qx, a.buffer, 65);
    CHECK(ibv_wr_complete(qx));
    ibv_wr_start(qx);
    for (int i = 0; i < 9; i++) {
        ibv_wr_rdma_write(qx, b.mr->rkey, there);
        ibv_wr_set_sge(qx, a.mr->lkey, (uintptr_t)a.buffer + 1, 64);
    }
    CHECK(ibv_wr_complete(qx) == ENOMEM);
    struct ibv_wc wc;
    CHECK(!poll_for(a.n.cq, &wc, 0.2) && is_filled(b.buffer, 5000, 3));
    qx->wr_id = 9;
    ibv_wr_start(qx);
    ibv_wr_atomic_fetch_add(qx, b.mr->rkey, there + 8 * PAGE, 5);
    ibv_wr_set_sge(qx, a.mr->lkey, (uintptr_t)a.buffer, 8);
    CHECK(!ibv_wr_complete(qx));
    expect(a.n.cq, 9, IBV_WC_SUCCESS);
    CHECK(*(uint64_t *)(b.buffer + 8 * PAGE) == 5);
}

/* -- memory ------------------------------------------------------------------------------- */

static void device_memory(void)
{
    both();
    struct ibv_device_attr_ex attr;
    CHECK(!ibv_query_device_ex(b.n.ctx, NULL, &attr) && attr.max_dm_size >= 1 << 20);
    struct ibv_alloc_dm_attr ask = {.length = 1 << 20, .log_align_req = 6};
    struct ibv_dm *dm = ibv_alloc_dm(b.n.ctx, &ask), *own = ibv_alloc_dm(a.n.ctx, &ask);
    CHECK(dm && own);
    int bits = ALL_ACCESS | IBV_ACCESS_ZERO_BASED;
    CHECK(!ibv_reg_dm_mr(b.n.pd, dm, 0, 1 << 20, ALL_ACCESS));
    struct ibv_mr *mr = ibv_reg_dm_mr(b.n.pd, dm, PAGE, 1 << 19, bits), *mine = ibv_reg_dm_mr(a.n.pd, own, 0, 1 << 20, bits);
    CHECK(mr && mine && ibv_free_dm(dm) == EBUSY);
    fill(a.buffer, LEN, 5);
    /* WRITE there, READ back into device memory here, SEND that, atomics. */
    for (int i = 0; i < 3; i++) {
        uint32_t len = (uint32_t[]){64, 5000, LEN}[i];
        post(a.qp, 1, IBV_WR_RDMA_WRITE, a.buffer, len, a.mr->lkey, 1000, mr->rkey);
        expect(a.n.cq, 1, IBV_WC_SUCCESS);
        post(a.qp, 2, IBV_WR_RDMA_READ, NULL, len, mine->lkey, 1000, mr->rkey);
        expect(a.n.cq, 2, IBV_WC_SUCCESS);
        memset(b.buffer, 0, LEN);
        post_recv(b.qp, 3, b.buffer, LEN, b.mr->lkey);
        post(a.qp, 4, IBV_WR_SEND, NULL, len, mine->lkey, 0, 0);
        expect(a.n.cq, 4, IBV_WC_SUCCESS);
        expect(b.n.cq, 3, IBV_WC_SUCCESS);
        CHECK(is_filled(b.buffer, len, 5));
        /* Received into device memory. */
        post_recv(a.qp, 5, (void *)(uintptr_t)(512 << 10), LEN, mine->lkey);
        post(b.qp, 6, IBV_WR_SEND, b.buffer, len, b.mr->lkey, 0, 0);
        expect(b.n.cq, 6, IBV_WC_SUCCESS);
        expect(a.n.cq, 5, IBV_WC_SUCCESS);
        memset(b.buffer, 0, LEN);
        CHECK(!ibv_memcpy_from_dm(b.buffer, own, 512 << 10, len));
        CHECK(is_filled(b.buffer, len, 5));
    }
    uint64_t eight = 40;
    CHECK(!ibv_memcpy_to_dm(dm, PAGE + 8, &eight, 8));
    struct ibv_sge sge = {(uintptr_t)a.buffer, 8, a.mr->lkey};
    struct ibv_send_wr wr = {.wr_id = 7,
                             .opcode = IBV_WR_ATOMIC_FETCH_AND_ADD,
                             .sg_list = &sge,
                             .num_sge = 1,
                             .send_flags = IBV_SEND_SIGNALED,
                             .wr.atomic = {.remote_addr = 8, .compare_add = 2, .rkey = mr->rkey}},
                       *bad;
    CHECK(!ibv_post_send(a.qp, &wr, &bad));
    expect(a.n.cq, 7, IBV_WC_SUCCESS);
    CHECK(!ibv_memcpy_from_dm(&eight, dm, PAGE + 8, 8) && eight == 42);
    CHECK(ibv_memcpy_from_dm(&eight, dm, 2, 4) && ibv_memcpy_from_dm(&eight, dm, (1 << 20) - 4, 8));
    CHECK(!ibv_dereg_mr(mr) && !ibv_free_dm(dm) && !ibv_dereg_mr(mine) && !ibv_free_dm(own));
}

static void null_memory(void)
{
    both();
    struct ibv_mr *null = ibv_alloc_null_mr(a.n.pd);
    CHECK(null);
    for (int i = 0; i < 2; i++) {
        uint32_t len = (uint32_t[]){512, LEN}[i];
        fill(b.buffer, LEN, 9);
        post(a.qp, 1, IBV_WR_RDMA_READ, (void *)0x1234, len, null->lkey, (uintptr_t)b.buffer, b.mr->rkey);
        expect(a.n.cq, 1, IBV_WC_SUCCESS);
        post(a.qp, 2, IBV_WR_RDMA_WRITE, NULL, len, null->lkey, (uintptr_t)b.buffer, b.mr->rkey);
        expect(a.n.cq, 2, IBV_WC_SUCCESS);
        for (uint32_t k = 0; k < len; k++)
            CHECK(!b.buffer[k]);
        fill(b.buffer, LEN, 9);
        post_recv(a.qp, 3, NULL, LEN, null->lkey);
        post(b.qp, 4, IBV_WR_SEND, b.buffer, len, b.mr->lkey, 0, 0);
        expect(b.n.cq, 4, IBV_WC_SUCCESS);
        expect(a.n.cq, 3, IBV_WC_SUCCESS);
    }
    CHECK(!ibv_dereg_mr(null));
}

static void on_demand(void)
{
    both();
    struct ibv_mr *all = ibv_reg_mr(b.n.pd, NULL, SIZE_MAX, ALL_ACCESS | IBV_ACCESS_ON_DEMAND);
    struct ibv_mr *some = ibv_reg_mr(b.n.pd, b.buffer, LEN, ALL_ACCESS | IBV_ACCESS_ON_DEMAND);
    CHECK(all && some);
    struct ibv_sge sge = {(uintptr_t)b.buffer, LEN, some->lkey};
    CHECK(!ibv_advise_mr(b.n.pd, IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE, IBV_ADVISE_MR_FLAG_FLUSH, &sge, 1));
    sge.length++;
    CHECK(ibv_advise_mr(b.n.pd, IBV_ADVISE_MR_ADVICE_PREFETCH, 0, &sge, 1) == EFAULT);
    CHECK(ibv_advise_mr(b.n.pd, 77, 0, &sge, 1) == EOPNOTSUPP);
    fill(a.buffer, LEN, 11);
    for (int round = 0; round < 3; round++) {
        /* Other pages at the same address. */
        CHECK(mmap(b.buffer, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == b.buffer);
        for (int i = 0; i < 2; i++) {
            struct ibv_mr *mr = i ? all : some;
            uint64_t to = (uintptr_t)b.buffer + i * 5 * PAGE + 100;
            post(a.qp, 1, IBV_WR_RDMA_WRITE, a.buffer, 9000, a.mr->lkey, to, mr->rkey);
            expect(a.n.cq, 1, IBV_WC_SUCCESS);
            CHECK(is_filled(b.buffer + i * 5 * PAGE + 100, 9000, 11));
            post_recv(b.qp, 2, b.buffer + 20 * PAGE, 9000, mr->lkey);
            post(a.qp, 3, IBV_WR_SEND, a.buffer, round ? 9000 : 100, a.mr->lkey, 0, 0);
            expect(a.n.cq, 3, IBV_WC_SUCCESS);
            expect(b.n.cq, 2, IBV_WC_SUCCESS);
        }
    }
    CHECK(!ibv_dereg_mr(all) && !ibv_dereg_mr(some));
}

static void dma_buf(void)
{
    both();
    /* Whatever can be mapped stands in for a dma-buf. */
    int fd = memfd_create("buffer", 0);
    CHECK(fd >= 0 && !ftruncate(fd, 8 * PAGE));
    struct ibv_mr *mr = ibv_reg_dmabuf_mr(b.n.pd, PAGE + 16, 4 * PAGE, 0x10000, fd, ALL_ACCESS);
    CHECK(mr);
    fill(a.buffer, LEN, 13);
    post(a.qp, 1, IBV_WR_RDMA_WRITE, a.buffer, 4 * PAGE, a.mr->lkey, 0x10000, mr->rkey);
    expect(a.n.cq, 1, IBV_WC_SUCCESS);
    unsigned char back[4 * PAGE];
    CHECK(pread(fd, back, sizeof back, PAGE + 16) == sizeof back && is_filled(back, sizeof back, 13));
    int pipes[2];
    CHECK(!pipe(pipes));
    CHECK(!ibv_reg_dmabuf_mr(b.n.pd, 0, PAGE, 0, pipes[0], ALL_ACCESS) && errno == EOPNOTSUPP);
    CHECK(!ibv_reg_dmabuf_mr(b.n.pd, 0, PAGE, 0, -1, ALL_ACCESS) && errno == EBADF);
    CHECK(!ibv_dereg_mr(mr));
}

static void re_register(void)
{
    both();
    unsigned char *other = pages(LEN);
    CHECK(write_to((uintptr_t)b.buffer, b.mr->rkey) == IBV_WC_SUCCESS);
    CHECK(ibv_rereg_mr(b.mr, 8, NULL, NULL, 0, 0));
    CHECK(!ibv_rereg_mr(b.mr, IBV_REREG_MR_CHANGE_TRANSLATION, NULL, other, LEN, 0));
    CHECK(b.mr->addr == other);
    fill(a.buffer, LEN, 17);
    CHECK(write_to((uintptr_t)other + LEN - 64, b.mr->rkey) == IBV_WC_SUCCESS && is_filled(other + LEN - 64, 64, 17));
    CHECK(!ibv_rereg_mr(b.mr, IBV_REREG_MR_CHANGE_ACCESS, NULL, NULL, 0, IBV_ACCESS_LOCAL_WRITE));
    CHECK(write_to((uintptr_t)other, b.mr->rkey) == IBV_WC_REM_ACCESS_ERR);
}

/* -- windows ------------------------------------------------------------------------------ */

static void bind_2(struct ibv_mw *mw, uint32_t rkey, struct ibv_mr *mr, void *at, uint64_t len, enum ibv_wc_status status)
{
    struct ibv_send_wr wr = {.wr_id = 50,
                             .opcode = IBV_WR_BIND_MW,
                             .send_flags = IBV_SEND_SIGNALED,
                             .bind_mw = {.mw = mw,
                                         .rkey = rkey,
                                         .bind_info = {.mr = mr,
                                                       .addr = (uintptr_t)at,
                                                       .length = len,
                                                       .mw_access_flags = IBV_ACCESS_REMOTE_WRITE}}},
                       *bad;
    CHECK(!ibv_post_send(b.qp, &wr, &bad));
    struct ibv_wc wc = expect(b.n.cq, 50, status);
    CHECK(status != IBV_WC_SUCCESS || wc.opcode == IBV_WC_BIND_MW);
}

static void windows(void)
{
    both();
    struct ibv_mr *mr = ibv_reg_mr(b.n.pd, b.buffer, LEN, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_MW_BIND);
    CHECK(mr && !ibv_alloc_mw(b.n.pd, 3));
    struct ibv_mw *one = ibv_alloc_mw(b.n.pd, IBV_MW_TYPE_1), *two = ibv_alloc_mw(b.n.pd, IBV_MW_TYPE_2);
    CHECK(one && two);
    struct ibv_mw_bind bind = {.wr_id = 60,
                               .send_flags = IBV_SEND_SIGNALED,
                               .bind_info = {.mr = mr,
                                             .addr = (uintptr_t)b.buffer,
                                             .length = PAGE,
                                             .mw_access_flags = IBV_ACCESS_REMOTE_WRITE}};
    CHECK(ibv_bind_mw(b.qp, two, &bind) == EINVAL);
    uint32_t last = one->rkey;
    for (int i = 0; i < 20; i++) {
        CHECK(!ibv_bind_mw(b.qp, one, &bind) && one->rkey != last);
        last = one->rkey;
        expect(b.n.cq, 60, IBV_WC_SUCCESS);
        CHECK(write_to((uintptr_t)b.buffer + PAGE - 64, last) == IBV_WC_SUCCESS);
    }
    CHECK(ibv_dereg_mr(mr) == EBUSY);
    uint32_t key = ibv_inc_rkey(two->rkey);
    for (int i = 0; i < 20; i++) {
        bind_2(two, key, mr, b.buffer + 2 * PAGE, PAGE, IBV_WC_SUCCESS);
        CHECK(write_to((uintptr_t)b.buffer + 2 * PAGE, key) == IBV_WC_SUCCESS);
        if (i % 2) {
            struct ibv_send_wr wr = {.wr_id = 51,
                                     .opcode = IBV_WR_LOCAL_INV,
                                     .send_flags = IBV_SEND_SIGNALED,
                                     .invalidate_rkey = key},
                               *bad;
            CHECK(!ibv_post_send(b.qp, &wr, &bad));
            expect(b.n.cq, 51, IBV_WC_SUCCESS);
        } else {
            struct ibv_sge sge = {(uintptr_t)a.buffer, 100, a.mr->lkey};
            struct ibv_send_wr wr = {.wr_id = 52,
                                     .opcode = IBV_WR_SEND_WITH_INV,
                                     .sg_list = &sge,
                                     .num_sge = 1,
                                     .send_flags = IBV_SEND_SIGNALED,
                                     .invalidate_rkey = key},
                               *bad;
            post_recv(b.qp, 53, b.buffer + 8 * PAGE, PAGE, b.mr->lkey);
            CHECK(!ibv_post_send(a.qp, &wr, &bad));
            expect(a.n.cq, 52, IBV_WC_SUCCESS);
            struct ibv_wc wc = expect(b.n.cq, 53, IBV_WC_SUCCESS);
            CHECK(wc.wc_flags == IBV_WC_WITH_INV && wc.invalidated_rkey == key);
        }
    }
    bind_2(two, key, mr, b.buffer + 2 * PAGE, PAGE, IBV_WC_SUCCESS);
    CHECK(write_to((uintptr_t)b.buffer + 2 * PAGE, key) == IBV_WC_SUCCESS);
    CHECK(!ibv_dealloc_mw(two));
    CHECK(write_to((uintptr_t)b.buffer + 2 * PAGE, key) == IBV_WC_REM_ACCESS_ERR);
    CHECK(!ibv_dealloc_mw(one) && !ibv_dereg_mr(mr));
}

/* -- domains ------------------------------------------------------------------------------ */

static void domains(void)
{
    both();
    struct ibv_td_init_attr none = {0};
    struct ibv_td *td = ibv_alloc_td(a.n.ctx, &none);
    CHECK(td);
    struct ibv_parent_domain_init_attr attr = {.pd = a.n.pd, .td = td};
    struct ibv_pd *parent = ibv_alloc_parent_domain(a.n.ctx, &attr);
    CHECK(parent && ibv_dealloc_td(td) == EBUSY && ibv_dealloc_pd(a.n.pd) == EBUSY);
    attr.pd = parent;
    CHECK(!ibv_alloc_parent_domain(a.n.ctx, &attr) && errno == EINVAL);
    attr = (struct ibv_parent_domain_init_attr){.pd = a.n.pd, .comp_mask = 1 << 20};
    CHECK(!ibv_alloc_parent_domain(a.n.ctx, &attr) && errno == EOPNOTSUPP);
    /* The same protection domain under another name. */
    struct ibv_mr *mr = ibv_reg_mr(parent, a.buffer, LEN, ALL_ACCESS);
    CHECK(mr && ibv_dealloc_pd(parent) == 0);
    post(a.qp, 1, IBV_WR_RDMA_WRITE, a.buffer, 64, mr->lkey, (uintptr_t)b.buffer, b.mr->rkey);
    expect(a.n.cq, 1, IBV_WC_SUCCESS);
    CHECK(!ibv_dereg_mr(mr) && !ibv_dealloc_td(td));
}

/* -- events ------------------------------------------------------------------------------- */

static void *acknowledge(void *cq)
{
    usleep(200000);
    ibv_ack_cq_events(cq, 2);
    return NULL;
}

static int readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0);
}

/* Gives `cq` (of B) a completion. */
static void complete(struct ibv_qp *qp)
{
    post_recv(qp, 1, b.buffer, PAGE, b.mr->lkey);
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
    CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE));
}

static void channels(void)
{
    open_side(&a, 0);
    open_side(&b, second);
    struct ibv_comp_channel *channel = ibv_create_comp_channel(b.n.ctx);
    CHECK(channel && !fcntl(channel->fd, F_SETFL, O_NONBLOCK));
    struct ibv_cq *cq[2], *got;
    struct node n[2] = {b.n, b.n};
    struct ibv_qp *qp[2];
    void *context;
    for (int i = 0; i < 2; i++) {
        CHECK(cq[i] = ibv_create_cq(b.n.ctx, 16, (void *)(uintptr_t)(i + 1), channel, 0));
        n[i].cq = cq[i];
        qp[i] = make_qp(&n[i], ALL_ACCESS);
        CHECK(!ibv_req_notify_cq(cq[i], 0));
    }
    CHECK(ibv_get_cq_event(channel, &got, &context) && errno == EAGAIN);
    complete(qp[0]);
    complete(qp[1]);
    CHECK(!ibv_get_cq_event(channel, &got, &context) && got == cq[0] && context == (void *)1);
    CHECK(readable(channel->fd));
    /* Arming with an unpolled, announced completion gives no second event; a new one does. */
    CHECK(!ibv_req_notify_cq(cq[0], 0));
    post_recv(qp[0], 2, b.buffer, PAGE, b.mr->lkey);
    /* The unread event of CQ 1 goes with it, that of CQ 0 stays. */
    CHECK(!ibv_destroy_qp(qp[1]) && !ibv_destroy_cq(cq[1]));
    CHECK(!ibv_get_cq_event(channel, &got, &context) && got == cq[0]);
    CHECK(ibv_get_cq_event(channel, &got, &context) && errno == EAGAIN);
    /* Destroying waits for the two acknowledgements. */
    CHECK(!ibv_destroy_qp(qp[0]));
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, acknowledge, cq[0]));
    double start = now();
    CHECK(!ibv_destroy_cq(cq[0]) && now() - start > 0.15);
    pthread_join(thread, NULL);
    CHECK(!ibv_destroy_comp_channel(channel));
    a.qp = make_qp(&a.n, ALL_ACCESS);
    b.qp = make_qp(&b.n, ALL_ACCESS);
}

static struct ibv_async_event async_event(struct ibv_context *ctx)
{
    struct ibv_async_event e;
    double end = now() + 10;
    while (!readable(ctx->async_fd))
        CHECK(now() < end);
    CHECK(!ibv_get_async_event(ctx, &e));
    return e;
}

static void asynchronous(void)
{
    open_side(&a, 0);
    open_side(&b, second);
    CHECK(!fcntl(b.n.ctx->async_fd, F_SETFL, O_NONBLOCK));
    a.qp = make_qp(&a.n, ALL_ACCESS);
    b.qp = make_qp(&b.n, ALL_ACCESS);
    struct address aa = address_of(a.qp), ab = address_of(b.qp);
    connect_qp(a.qp, &ab);
    to_rtr(b.qp, &aa, 12);
    post_recv(b.qp, 1, b.buffer, PAGE, b.mr->lkey);
    post_one_send(a.qp, 1, a.mr, a.buffer, 64);
    expect(b.n.cq, 1, IBV_WC_SUCCESS);
    expect(a.n.cq, 1, IBV_WC_SUCCESS);
    struct ibv_async_event e = async_event(b.n.ctx);
    CHECK(e.event_type == IBV_EVENT_COMM_EST && e.element.qp == b.qp);
    ibv_ack_async_event(&e);
    /* Drained, and told so. */
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_SQD, .en_sqd_async_notify = 1};
    struct ibv_qp_init_attr init;
    CHECK(!ibv_modify_qp(a.qp, &attr, IBV_QP_STATE | IBV_QP_EN_SQD_ASYNC_NOTIFY));
    e = async_event(a.n.ctx);
    CHECK(e.event_type == IBV_EVENT_SQ_DRAINED && e.element.qp == a.qp);
    ibv_ack_async_event(&e);
    post_recv(b.qp, 2, b.buffer, PAGE, b.mr->lkey);
    post_one_send(a.qp, 2, a.mr, a.buffer, 64);
    struct ibv_wc wc;
    CHECK(!poll_for(a.n.cq, &wc, 0.1));
    CHECK(!ibv_query_qp(a.qp, &attr, IBV_QP_STATE, &init) && attr.qp_state == IBV_QPS_SQD && !attr.sq_draining);
    attr = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTS};
    CHECK(!ibv_modify_qp(a.qp, &attr, IBV_QP_STATE));
    expect(a.n.cq, 2, IBV_WC_SUCCESS);
    expect(b.n.cq, 2, IBV_WC_SUCCESS);
    /* A violation is told to its target; unread, it goes with the QP. */
    CHECK(write_to((uintptr_t)b.buffer + LEN, b.mr->rkey) == IBV_WC_REM_ACCESS_ERR);
    double end = now() + 10;
    while (!readable(b.n.ctx->async_fd))
        CHECK(now() < end);
    CHECK(!ibv_destroy_qp(b.qp) && !readable(b.n.ctx->async_fd));
    b.qp = make_qp(&b.n, ALL_ACCESS);
}

static void moderation(void)
{
    open_side(&a, 0);
    open_side(&b, second);
    struct ibv_comp_channel *channel = ibv_create_comp_channel(b.n.ctx);
    CHECK(channel && !fcntl(channel->fd, F_SETFL, O_NONBLOCK));
    struct node n = b.n;
    CHECK(n.cq = ibv_create_cq(b.n.ctx, 64, NULL, channel, 0));
    a.qp = make_qp(&a.n, ALL_ACCESS);
    b.qp = make_qp(&n, ALL_ACCESS);
    connect_sides();
    struct ibv_modify_cq_attr attr = {.attr_mask = IBV_CQ_ATTR_MODERATE, .moderate = {.cq_count = 4, .cq_period = 60000}};
    CHECK(!ibv_modify_cq(n.cq, &attr));
    CHECK(!ibv_req_notify_cq(n.cq, 0));
    double start = now();
    for (int i = 0; i < 3; i++) {
        post_recv(b.qp, i, b.buffer, PAGE, b.mr->lkey);
        post_one_send(a.qp, i, a.mr, a.buffer, 64);
        expect(a.n.cq, i, IBV_WC_SUCCESS);
    }
    int early = readable(channel->fd);
    if (now() - start < 0.05)
        CHECK(!early);
    while (!readable(channel->fd))
        CHECK(now() - start < 10);
    CHECK(now() - start >= 0.05);
    struct ibv_cq *got;
    void *context;
    CHECK(!ibv_get_cq_event(channel, &got, &context));
    ibv_ack_cq_events(got, 1);
    for (int i = 0; i < 3; i++)
        expect(n.cq, i, IBV_WC_SUCCESS);
    CHECK(!ibv_destroy_qp(b.qp) && !ibv_destroy_cq(n.cq) && !ibv_destroy_comp_channel(channel));
    b.qp = make_qp(&b.n, ALL_ACCESS);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {
        {"cq-ex", cq_ex},         {"wr", wr_calls},       {"dm", device_memory}, {"null", null_memory},
        {"odp", on_demand},       {"dmabuf", dma_buf},    {"rereg", re_register}, {"mw", windows},
        {"domains", domains},     {"channels", channels}, {"async", asynchronous}, {"moderation", moderation},
    };
    CHECK(argc == 3);
    what = argv[1];
    second = atoi(argv[2]);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (!strcmp(cases[i].name, what)) {
            cases[i].run();
            close_side(&a);
            close_side(&b);
            return 0;
        }
    FAIL("no such case");
}
