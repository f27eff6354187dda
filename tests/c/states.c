/* Ends of a connection in different states.
 *
 * Usage: states CASE SECOND_DEVICE; exits with 0 when everything was as it should be. */
#include "util.h"

#define BIG (1 << 20)

static int second; /* index of the other side's device */

/* What the other process tells about itself. */
struct intro {
    struct address address;
    uint64_t buffer;
    uint32_t rkey;
};

static struct intro introduce(struct ibv_qp *qp, struct ibv_mr *mr)
{
    return (struct intro){.address = address_of(qp), .buffer = (uintptr_t)mr->addr, .rkey = mr->rkey};
}

/* -- responder only in RTR ---------------------------------------------------------------- */

static void rtr_only_child(int fd)
{
    struct node n = open_node(second);
    unsigned char *buffer = pages(64 * PAGE);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, buffer, 64 * PAGE, ALL_ACCESS);
    struct ibv_qp *qp = make_qp(&n, ALL_ACCESS);
    struct intro me = introduce(qp, mr), peer;
    for (int i = 0; i < 100; i++)
        post_recv(qp, i, buffer + i * 1024, 1024, mr->lkey);
    put(fd, &me, sizeof me);
    get(fd, &peer, sizeof peer);
    to_rtr(qp, &peer.address, 12);
    put(fd, "r", 1);
    for (int i = 0; i < 100; i++) {
        struct ibv_wc wc = expect(n.cq, i, IBV_WC_SUCCESS);
        CHECK(wc.byte_len == 1000);
        CHECK(is_filled(buffer + i * 1024, 1000, i));
    }
    char c;
    get(fd, &c, 1);
    CHECK(is_filled(buffer + 40 * PAGE, 5000, 77));
    struct ibv_qp_attr attr;
    struct ibv_qp_init_attr init;
    CHECK(!ibv_query_qp(qp, &attr, IBV_QP_STATE, &init) && attr.qp_state == IBV_QPS_RTR);
}

static void rtr_only(void)
{
    pid_t pid;
    int fd = fork_peer(rtr_only_child, &pid);
    struct node n = open_node(0);
    unsigned char *buffer = pages(2 * PAGE);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, buffer, 2 * PAGE, ALL_ACCESS);
    struct ibv_qp *qp = make_qp(&n, ALL_ACCESS);
    struct intro me = introduce(qp, mr), peer;
    get(fd, &peer, sizeof peer);
    put(fd, &me, sizeof me);
    connect_qp(qp, &peer.address);
    char c;
    get(fd, &c, 1);
    for (int i = 0; i < 100; i++) {
        fill(buffer, 1000, i);
        post_one_send(qp, i, mr, buffer, 1000);
        expect(n.cq, i, IBV_WC_SUCCESS);
    }
    fill(buffer, 5000, 77);
    post(qp, 200, IBV_WR_RDMA_WRITE, buffer, 5000, mr->lkey, peer.buffer + 40 * PAGE, peer.rkey);
    expect(n.cq, 200, IBV_WC_SUCCESS);
    put(fd, "w", 1);
    reap(pid);
}

/* -- a sender that starts before its peer is in RTR ---------------------------------------- */

static void late_rtr_child(int fd)
{
    struct node n = open_node(second);
    unsigned char *buffer = pages(4 * PAGE);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, buffer, 4 * PAGE, ALL_ACCESS);
    struct ibv_qp *qp = make_qp(&n, ALL_ACCESS);
    struct intro me = introduce(qp, mr), peer;
    for (int i = 0; i < 8; i++)
        post_recv(qp, i, buffer + i * 1024, 1024, mr->lkey);
    put(fd, &me, sizeof me);
    get(fd, &peer, sizeof peer);
    usleep(300 * 1000); /* the sender posts meanwhile; its timeout and retries allow 0.5 s */
    connect_qp(qp, &peer.address);
    for (int i = 0; i < 8; i++) {
        expect(n.cq, i, IBV_WC_SUCCESS);
        CHECK(is_filled(buffer + i * 1024, 900, i));
    }
    char c;
    get(fd, &c, 1);
    CHECK(is_filled(buffer + 3 * PAGE, 100, 9));
}

static void late_rtr(void)
{
    pid_t pid;
    int fd = fork_peer(late_rtr_child, &pid);
    struct node n = open_node(0);
    unsigned char *buffer = pages(4 * PAGE);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, buffer, 4 * PAGE, ALL_ACCESS);
    struct ibv_qp *qp = make_qp(&n, ALL_ACCESS);
    struct intro me = introduce(qp, mr), peer;
    get(fd, &peer, sizeof peer);
    connect_qp(qp, &peer.address);
    for (int i = 0; i < 8; i++) {
        fill(buffer + i * 1024, 900, i);
        post_one_send(qp, i, mr, buffer + i * 1024, 900);
    }
    fill(buffer + 8 * 1024, 100, 9);
    post(qp, 8, IBV_WR_RDMA_WRITE, buffer + 8 * 1024, 100, mr->lkey, peer.buffer + 3 * PAGE, peer.rkey);
    put(fd, &me, sizeof me);
    for (int i = 0; i < 9; i++)
        expect(n.cq, i, IBV_WC_SUCCESS);
    put(fd, "w", 1);
    reap(pid);
}

/* -- a peer that posts receives and never polls ---------------------------------------------- */

static void no_poll_child(int fd)
{
    struct node n = open_node(second);
    unsigned char *buffer = pages(2 * BIG);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, buffer, 2 * BIG, ALL_ACCESS);
    struct ibv_qp *qp = make_qp(&n, ALL_ACCESS);
    struct intro me = introduce(qp, mr), peer;
    for (int i = 0; i < 64; i++)
        post_recv(qp, i, buffer + i * 1024, 1024, mr->lkey);
    post_recv(qp, 64, buffer + BIG, BIG, mr->lkey);
    put(fd, &me, sizeof me);
    get(fd, &peer, sizeof peer);
    connect_qp(qp, &peer.address);
    put(fd, "r", 1);
    char c;
    get(fd, &c, 1); /* sleeps here all the time */
    for (int i = 0; i < 64; i++)
        CHECK(is_filled(buffer + i * 1024, 1000, i));
    CHECK(is_filled(buffer + BIG, BIG, 5));
    for (int i = 0; i < 65; i++)
        expect(n.cq, i, IBV_WC_SUCCESS);
}

static void no_poll(void)
{
    pid_t pid;
    int fd = fork_peer(no_poll_child, &pid);
    struct node n = open_node(0);
    unsigned char *buffer = pages(BIG);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, buffer, BIG, ALL_ACCESS);
    struct ibv_qp *qp = make_qp(&n, ALL_ACCESS);
    struct intro me = introduce(qp, mr), peer;
    get(fd, &peer, sizeof peer);
    put(fd, &me, sizeof me);
    connect_qp(qp, &peer.address);
    char c;
    get(fd, &c, 1);
    for (int i = 0; i < 64; i++) {
        fill(buffer, 1000, i);
        post_one_send(qp, i, mr, buffer, 1000);
        expect(n.cq, i, IBV_WC_SUCCESS);
    }
    fill(buffer, BIG, 5);
    post_one_send(qp, 64, mr, buffer, BIG);
    expect(n.cq, 64, IBV_WC_SUCCESS);
    put(fd, "w", 1);
    reap(pid);
}

/* -- a target of WRITEs that is in RTR, has posted nothing and never polls: the server of ib_write_bw ------- */

static void write_target_child(int fd)
{
    struct node n = open_node(second);
    unsigned char *buffer = pages(BIG);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, buffer, BIG, ALL_ACCESS);
    struct ibv_qp *qp = make_qp(&n, ALL_ACCESS);
    struct intro me = introduce(qp, mr), peer;
    put(fd, &me, sizeof me);
    get(fd, &peer, sizeof peer);
    to_rtr(qp, &peer.address, 12);
    put(fd, "r", 1);
    char c;
    get(fd, &c, 1);
    CHECK(is_filled(buffer, BIG, 5));
}

static void write_target(void)
{
    pid_t pid;
    int fd = fork_peer(write_target_child, &pid);
    struct node n = open_node(0);
    unsigned char *buffer = pages(BIG);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, buffer, BIG, ALL_ACCESS);
    struct ibv_qp *qp = make_qp(&n, ALL_ACCESS);
    struct intro me = introduce(qp, mr), peer;
    get(fd, &peer, sizeof peer);
    put(fd, &me, sizeof me);
    connect_qp(qp, &peer.address);
    char c;
    get(fd, &c, 1);
    usleep(100 * 1000); /* its agent goes to sleep */
    fill(buffer, BIG, 5);
    for (int i = 0; i < 16; i++) {
        uint32_t part = BIG / 16;
        post(qp, i, IBV_WR_RDMA_WRITE, buffer + i * part, part, mr->lkey, peer.buffer + i * part, peer.rkey);
    }
    for (int i = 0; i < 16; i++)
        expect(n.cq, i, IBV_WC_SUCCESS);
    put(fd, "w", 1);
    reap(pid);
}

/* -- both ends in one process ---------------------------------------------------------------- */

/* Sends, writes and writes with immediate from a to b, small and large, polling only what `polled` says. */
static void exchange(struct node *na, struct ibv_qp *a, struct ibv_mr *from, struct node *nb, struct ibv_qp *b, struct ibv_mr *to)
{
    static const uint32_t sizes[] = {1, 40, 41, 256, 4096, 65537, BIG};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint32_t len = sizes[i];
        struct ibv_wc wc[2];
        int sent = 0, received = 0;
        fill(from->addr, len, i);
        memset(to->addr, 0, len);
        post_recv(b, 100, to->addr, len, to->lkey);
        post(a, 200, IBV_WR_SEND_WITH_IMM, from->addr, len, from->lkey, 0, 0);
        for (double end = now() + 10; !(sent && received);) {
            struct ibv_cq *cqs[] = {na->cq, nb->cq};
            for (int c = 0; c < (na->cq == nb->cq ? 1 : 2); c++) {
                int n = ibv_poll_cq(cqs[c], 2, wc);
                CHECK(n >= 0);
                for (int k = 0; k < n; k++) {
                    if (wc[k].status != IBV_WC_SUCCESS)
                        FAIL("%u bytes: %llu: %s", len, (unsigned long long)wc[k].wr_id, ibv_wc_status_str(wc[k].status));
                    sent += wc[k].wr_id == 200;
                    received += wc[k].wr_id == 100;
                }
            }
            if (now() > end)
                FAIL("%u bytes: sent %d, received %d after 10 s", len, sent, received);
        }
        CHECK(is_filled(to->addr, len, i));
        memset(to->addr, 0, len);
        post(a, 300, IBV_WR_RDMA_WRITE, from->addr, len, from->lkey, (uintptr_t)to->addr, to->rkey);
        expect(na->cq, 300, IBV_WC_SUCCESS);
        CHECK(is_filled(to->addr, len, i));
    }
}

static void self(void)
{
    struct node n = open_node(0);
    struct ibv_mr *from = ibv_reg_mr(n.pd, pages(BIG), BIG, ALL_ACCESS), *to = ibv_reg_mr(n.pd, pages(BIG), BIG, ALL_ACCESS);
    struct ibv_qp *qp = make_qp(&n, ALL_ACCESS);
    struct address me = address_of(qp);
    connect_qp(qp, &me);
    exchange(&n, qp, from, &n, qp, to);
    CHECK(!ibv_destroy_qp(qp));
    CHECK(!ibv_dereg_mr(from) && !ibv_dereg_mr(to));
    close_node(&n);
}

static void two_qps(void)
{
    struct node n = open_node(0);
    struct ibv_mr *from = ibv_reg_mr(n.pd, pages(BIG), BIG, ALL_ACCESS), *to = ibv_reg_mr(n.pd, pages(BIG), BIG, ALL_ACCESS);
    struct ibv_qp *a = make_qp(&n, ALL_ACCESS), *b = make_qp(&n, ALL_ACCESS);
    struct address at_a = address_of(a), at_b = address_of(b);
    connect_qp(a, &at_b);
    connect_qp(b, &at_a);
    exchange(&n, a, from, &n, b, to);
    exchange(&n, b, to, &n, a, from);
    CHECK(!ibv_destroy_qp(a) && !ibv_destroy_qp(b));
    CHECK(!ibv_dereg_mr(from) && !ibv_dereg_mr(to));
    close_node(&n);
}

static void two_contexts(void)
{
    struct node na = open_node(0), nb = open_node(second);
    struct ibv_mr *from = ibv_reg_mr(na.pd, pages(BIG), BIG, ALL_ACCESS), *to = ibv_reg_mr(nb.pd, pages(BIG), BIG, ALL_ACCESS);
    struct ibv_qp *a = make_qp(&na, ALL_ACCESS), *b = make_qp(&nb, ALL_ACCESS);
    struct address at_a = address_of(a), at_b = address_of(b);
    connect_qp(a, &at_b);
    connect_qp(b, &at_a);
    exchange(&na, a, from, &nb, b, to);
    /* Only one of them is polled until its sends are done: polling one must not silence the other's agent. */
    for (int i = 0; i < 20; i++)
        post_recv(b, i, (char *)to->addr + i * 1024, 1024, to->lkey);
    post_recv(b, 20, (char *)to->addr + 65536, BIG / 2, to->lkey);
    for (int i = 0; i < 20; i++) {
        post_one_send(a, i, from, from->addr, 1000);
        expect(na.cq, i, IBV_WC_SUCCESS);
    }
    post_one_send(a, 20, from, from->addr, BIG / 2);
    expect(na.cq, 20, IBV_WC_SUCCESS);
    for (int i = 0; i < 21; i++)
        expect(nb.cq, i, IBV_WC_SUCCESS);
    CHECK(!ibv_destroy_qp(a) && !ibv_destroy_qp(b));
    CHECK(!ibv_dereg_mr(from) && !ibv_dereg_mr(to));
    close_node(&na);
    close_node(&nb);
}

/* -- SGEs that straddle two MRs of one page ----------------------------------------------------- */

static void straddle(void)
{
    struct node n = open_node(0);
    unsigned char *page = pages(PAGE), *target = pages(PAGE);
    struct ibv_mr *low = ibv_reg_mr(n.pd, page + 1000, 500, ALL_ACCESS), *high = ibv_reg_mr(n.pd, page + 1500, 500, ALL_ACCESS);
    struct ibv_mr *to = ibv_reg_mr(n.pd, target, PAGE, ALL_ACCESS);
    CHECK(low && high && to);
    for (int bad = 0; bad < 2; bad++) {
        struct ibv_qp *a = make_qp(&n, ALL_ACCESS), *b = make_qp(&n, ALL_ACCESS);
        struct address at_a = address_of(a), at_b = address_of(b);
        connect_qp(a, &at_b);
        connect_qp(b, &at_a);
        memset(target, 0, PAGE);
        fill(page, PAGE, 3);
        /* Good: each half by its own key. Bad: all of it by one of them. */
        struct ibv_sge sges[2] = {{(uintptr_t)page + 1400, bad ? 200 : 100, low->lkey}, {(uintptr_t)page + 1500, 100, high->lkey}};
        struct ibv_send_wr wr = {.wr_id = 1,
                                 .opcode = IBV_WR_RDMA_WRITE,
                                 .sg_list = sges,
                                 .num_sge = bad ? 1 : 2,
                                 .send_flags = IBV_SEND_SIGNALED,
                                 .wr.rdma = {(uintptr_t)target, to->rkey}},
                           *refused;
        CHECK(!ibv_post_send(a, &wr, &refused));
        expect(n.cq, 1, bad ? IBV_WC_LOC_PROT_ERR : IBV_WC_SUCCESS);
        if (bad)
            for (int i = 0; i < PAGE; i++)
                CHECK(!target[i]);
        else
            CHECK(!memcmp(target, page + 1400, 200) && !target[200]);
        CHECK(!ibv_destroy_qp(a) && !ibv_destroy_qp(b));
    }
    /* The same on the remote side, and over the edge of one MR into the other. */
    struct ibv_qp *a = make_qp(&n, ALL_ACCESS), *b = make_qp(&n, ALL_ACCESS);
    struct address at_a = address_of(a), at_b = address_of(b);
    connect_qp(a, &at_b);
    connect_qp(b, &at_a);
    fill(page, PAGE, 3);
    memset(target, 0, PAGE);
    post(a, 2, IBV_WR_RDMA_WRITE, target, 100, to->lkey, (uintptr_t)page + 1400, low->rkey);
    expect(n.cq, 2, IBV_WC_SUCCESS);
    CHECK(page[1399] && !page[1400] && !page[1499]);
    fill(page, PAGE, 3);
    post(a, 3, IBV_WR_RDMA_WRITE, target, 101, to->lkey, (uintptr_t)page + 1400, low->rkey);
    expect(n.cq, 3, IBV_WC_REM_ACCESS_ERR);
    CHECK(is_filled(page, PAGE, 3));
    CHECK(!ibv_destroy_qp(a) && !ibv_destroy_qp(b));
    CHECK(!ibv_dereg_mr(low) && !ibv_dereg_mr(high) && !ibv_dereg_mr(to));
    close_node(&n);
}

/* -- the sender has left in peace ----------------------------------------------------------- */

/* For longer than a fabric with --retry-ms 300 waits for a peer. */
static void left(void)
{
    for (int in_a_hurry = 0; in_a_hurry < 2; in_a_hurry++) {
        struct node n = open_node(0), m = open_node(second);
        unsigned char *from = pages(PAGE), *to = pages(PAGE);
        struct ibv_mr *src = ibv_reg_mr(n.pd, from, PAGE, ALL_ACCESS), *dst = ibv_reg_mr(m.pd, to, PAGE, ALL_ACCESS);
        struct ibv_qp *a = make_qp(&n, ALL_ACCESS), *b = make_qp(&m, ALL_ACCESS);
        struct address at_a = address_of(a), at_b = address_of(b);
        connect_qp(a, &at_b);
        connect_qp(b, &at_a);
        for (int i = 0; i < 10; i++)
            post_recv(b, i, to, 64, dst->lkey);
        struct ibv_wc wc;
        post(a, 1, IBV_WR_RDMA_WRITE, from, 64, src->lkey, (uintptr_t)to, dst->rkey);
        expect(n.cq, 1, IBV_WC_SUCCESS);
        /* Both ends are busy, so the receiver has a promise to renew when the sender is gone. */
        post_one_send(a, 2, src, from, 64);
        for (int sent = 0, got = 0; (!in_a_hurry && !sent) || !got;) {
            sent += ibv_poll_cq(n.cq, 1, &wc);
            got += ibv_poll_cq(m.cq, 1, &wc);
        }
        if (in_a_hurry)
            post_one_send(a, 3, src, from, 64);
        CHECK(!ibv_destroy_qp(a));
        usleep(1500000);
        for (int more = in_a_hurry; poll_for(m.cq, &wc, 0.01); more--)
            if (wc.status || !more)
                FAIL("the receiver got %s", ibv_wc_status_str(wc.status));
        struct ibv_qp_attr attr;
        struct ibv_qp_init_attr init;
        CHECK(!ibv_query_qp(b, &attr, IBV_QP_STATE, &init) && attr.qp_state == IBV_QPS_RTS);
        /* Nobody is left to give the key up. */
        CHECK(!ibv_dereg_mr(dst));
        CHECK(!poll_for(m.cq, &wc, 0.1));
        CHECK(dst = ibv_reg_mr(m.pd, to, PAGE, ALL_ACCESS));
        post_one_send(b, 4, dst, to, 64);
        for (int answered = 0; !answered;) {
            CHECK(poll_for(m.cq, &wc, 10));
            answered = wc.wr_id == 4 && wc.status == IBV_WC_RETRY_EXC_ERR;
            CHECK(answered || wc.status == IBV_WC_WR_FLUSH_ERR);
        }
        CHECK(!ibv_destroy_qp(b) && !ibv_dereg_mr(src) && !ibv_dereg_mr(dst));
        close_node(&n);
        close_node(&m);
    }
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {{"rtr-only", rtr_only}, {"late-rtr", late_rtr}, {"no-poll", no_poll}, {"write-target", write_target},          {"self", self},
                 {"two-qps", two_qps},   {"two-contexts", two_contexts}, {"straddle", straddle}, {"left", left}};
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3)
        for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
            if (!strcmp(argv[1], cases[i].name)) {
                what = argv[1];
                second = atoi(argv[2]);
                cases[i].run();
                return 0;
            }
    fprintf(stderr, "usage: states CASE SECOND_DEVICE\n");
    return 2;
}
