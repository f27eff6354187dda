/* Objects in large numbers.
 *
 * Usage: scale pairs N | scale srq N (N over 1000) | scale regions N LOOPS
 * pairs: N connected RC pairs between two processes, data both ways over each, then one process is killed.
 * srq: the same with a shared receive queue; the survivor looks at its events late.
 * regions: N memory regions that are written to from outside, and a loop that registers and deregisters. */
#include "util.h"
#include <poll.h>
#include <sys/resource.h>

#define LINE 64
#define BATCH 500

struct pairs {
    struct node n;
    int count, with_srq;
    struct ibv_srq *srq;
    struct ibv_qp **qp;
    int by_id[8192]; /* of native numbers, the low bits of qp_num */
    unsigned char *memory; /* per pair: what is sent, what is received, what is written to */
    struct ibv_mr *mr;
    uint64_t peer_memory;
    uint32_t peer_key;
};

struct side {
    uint64_t memory;
    uint32_t key;
};

static unsigned char *line_of(struct pairs *p, int i, int which)
{
    return p->memory + ((size_t)i * 3 + (size_t)which) * LINE;
}

static void open_pairs(struct pairs *p, int device)
{
    p->n.ctx = open_device(device);
    CHECK(p->n.pd = ibv_alloc_pd(p->n.ctx));
    CHECK(p->n.cq = ibv_create_cq(p->n.ctx, 4 * p->count, NULL, NULL, 0));
    size_t len = ((size_t)p->count * 3 * LINE + PAGE - 1) / PAGE * PAGE;
    p->memory = pages(len);
    CHECK(p->mr = ibv_reg_mr(p->n.pd, p->memory, len, ALL_ACCESS));
    CHECK(p->qp = calloc((size_t)p->count, sizeof *p->qp));
    if (p->with_srq) {
        struct ibv_srq_init_attr init = {.attr = {.max_wr = (uint32_t)p->count + 8, .max_sge = 1}};
        CHECK(p->srq = ibv_create_srq(p->n.pd, &init));
    }
}

static void receive(struct pairs *p, int i)
{
    struct ibv_sge sge = {(uintptr_t)line_of(p, i, 1), LINE, p->mr->lkey};
    struct ibv_recv_wr wr = {.wr_id = (uint64_t)i, .sg_list = &sge, .num_sge = 1}, *bad;
    CHECK(!(errno = p->srq ? ibv_post_srq_recv(p->srq, &wr, &bad) : ibv_post_recv(p->qp[i], &wr, &bad)));
}

/* Pairs from `from` to `to`: each side makes its half, then they are connected. Answers the seconds spent here, without waiting. */
static double connect_range(struct pairs *p, int fd, int from, int to)
{
    static struct address mine[BATCH], theirs[BATCH];
    double spent = 0;
    for (int at = from; at < to; at += BATCH) {
        int n = to - at < BATCH ? to - at : BATCH;
        double begun = now();
        for (int i = 0; i < n; i++) {
            struct ibv_qp_init_attr init = {.send_cq = p->n.cq,
                                            .recv_cq = p->n.cq,
                                            .srq = p->srq,
                                            .qp_type = IBV_QPT_RC,
                                            .cap = {.max_send_wr = 4, .max_recv_wr = 4, .max_send_sge = 1, .max_recv_sge = 1}};
            CHECK(p->qp[at + i] = ibv_create_qp(p->n.pd, &init));
            struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = ALL_ACCESS};
            CHECK(!(errno = ibv_modify_qp(p->qp[at + i], &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS)));
            receive(p, at + i);
            p->by_id[p->qp[at + i]->qp_num & 8191] = at + i;
            mine[i] = address_of(p->qp[at + i]);
        }
        spent += now() - begun;
        put(fd, mine, sizeof *mine * (size_t)n);
        get(fd, theirs, sizeof *theirs * (size_t)n);
        begun = now();
        for (int i = 0; i < n; i++)
            connect_qp(p->qp[at + i], &theirs[i]);
        spent += now() - begun;
        char c;
        put(fd, "c", 1);
        get(fd, &c, 1);
    }
    return spent;
}

/* A SEND and a WRITE over each pair, both ways at once, in bursts over many pairs. */
static void exchange(struct pairs *p, int fd, int from, int to, unsigned mine, unsigned theirs)
{
    char c;
    int sent = from, completed = 0, received = 0, n = to - from;
    double end = now() + 60;
    while (completed < 2 * n || received < n) {
        if (sent < to && 2 * (sent - from) - completed < 1000) {
            fill(line_of(p, sent, 0), LINE, mine + (unsigned)sent);
            post(p->qp[sent], 1u << 20 | (unsigned)sent, IBV_WR_RDMA_WRITE, line_of(p, sent, 0), LINE, p->mr->lkey,
                 p->peer_memory + ((uint64_t)sent * 3 + 2) * LINE, p->peer_key);
            post(p->qp[sent], 2u << 20 | (unsigned)sent, IBV_WR_SEND, line_of(p, sent, 0), LINE - 1 - (uint32_t)(sent % 8), p->mr->lkey, 0, 0);
            sent++;
        }
        struct ibv_wc wc[16];
        int k = ibv_poll_cq(p->n.cq, 16, wc);
        CHECK(k >= 0);
        for (int i = 0; i < k; i++) {
            if (wc[i].status != IBV_WC_SUCCESS)
                FAIL("completion %llx: %s", (unsigned long long)wc[i].wr_id, ibv_wc_status_str(wc[i].status));
            if (wc[i].opcode != IBV_WC_RECV) {
                completed++;
                continue;
            }
            /* With an SRQ it lies where the next free receive was. */
            int from_qp = p->by_id[wc[i].qp_num & 8191], at = (int)wc[i].wr_id;
            CHECK(p->qp[from_qp]->qp_num == wc[i].qp_num && (p->srq || at == from_qp));
            CHECK(wc[i].byte_len == LINE - 1 - (uint32_t)(from_qp % 8));
            CHECK(is_filled(line_of(p, at, 1), wc[i].byte_len, theirs + (unsigned)from_qp));
            memset(line_of(p, at, 1), 0, LINE);
            receive(p, at);
            received++;
        }
        if (now() > end)
            FAIL("%d of %d sent, %d completed, %d received", sent - from, n, completed, received);
    }
    put(fd, "d", 1);
    get(fd, &c, 1);
    for (int i = from; i < to; i++) {
        CHECK(is_filled(line_of(p, i, 2), LINE, theirs + (unsigned)i));
        memset(line_of(p, i, 2), 0, LINE);
    }
    put(fd, "r", 1);
    get(fd, &c, 1);
}

static void meet(struct pairs *p, int fd)
{
    struct side mine = {(uintptr_t)p->memory, p->mr->rkey}, theirs;
    put(fd, &mine, sizeof mine);
    get(fd, &theirs, sizeof theirs);
    p->peer_memory = theirs.memory;
    p->peer_key = theirs.key;
}

static int pair_count, shared_queue;

static void pairs_child(int fd)
{
    struct pairs p = {.count = pair_count, .with_srq = shared_queue};
    open_pairs(&p, 1);
    meet(&p, fd);
    int steps[] = {100, 1000, p.count}, from = 0;
    for (int s = 0; s < 3; s++) {
        connect_range(&p, fd, from, steps[s]);
        exchange(&p, fd, from, steps[s], 1000, 5);
        from = steps[s];
    }
    exchange(&p, fd, 0, p.count, 77, 99);
    for (;;)
        pause();
}

/* Bytes of memory of the process: its own and what it shares (proc(5), status). */
static long memory_in_use(void)
{
    char line[200];
    long sum = 0, kb;
    FILE *f = fopen("/proc/self/status", "r");
    CHECK(f);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "RssAnon: %ld", &kb) == 1 || sscanf(line, "RssShmem: %ld", &kb) == 1)
            sum += kb * 1024;
    fclose(f);
    return sum;
}

static void await_flushed(struct pairs *p, double begun)
{
    unsigned char *seen = calloc(1, (size_t)p->count);
    struct ibv_wc wc[16];
    int flushed = 0;
    while (flushed < p->count) {
        int k = ibv_poll_cq(p->n.cq, 16, wc);
        CHECK(k >= 0);
        for (int i = 0; i < k; i++) {
            CHECK(wc[i].status == IBV_WC_WR_FLUSH_ERR && !seen[wc[i].wr_id]);
            seen[wc[i].wr_id] = 1;
            flushed++;
        }
        if (now() > begun + 20)
            FAIL("%d of %d receives are flushed 20 s after the death", flushed, p->count);
    }
    free(seen);
}

/* One IBV_EVENT_QP_LAST_WQE_REACHED of each QP, although nobody reads while they come. */
static void await_events(struct pairs *p)
{
    usleep(1500 * 1000);
    unsigned char *seen = calloc(1, (size_t)p->count);
    double end = now() + 20;
    for (int n = 0; n < p->count;) {
        struct pollfd fd = {.fd = p->n.ctx->async_fd, .events = POLLIN};
        if (poll(&fd, 1, 100) == 1) {
            struct ibv_async_event e;
            CHECK(!ibv_get_async_event(p->n.ctx, &e));
            if (e.event_type == IBV_EVENT_QP_LAST_WQE_REACHED) {
                int i = (int)(intptr_t)e.element.qp->qp_context;
                CHECK(!seen[i]);
                seen[i] = 1;
                n++;
            }
            ibv_ack_async_event(&e);
        }
        if (now() > end)
            FAIL("%d of %d events", n, p->count);
    }
    free(seen);
}

static void pairs(int count, int with_srq)
{
    /* What a shell gives to programs. */
    struct rlimit limit = {1024, 1024};
    CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
    pair_count = count;
    shared_queue = with_srq;
    pid_t pid;
    int fd = fork_peer(pairs_child, &pid);
    struct pairs p = {.count = count, .with_srq = with_srq};
    open_pairs(&p, 0);
    meet(&p, fd);
    int steps[] = {100, 1000, count}, from = 0;
    long before = 0;
    for (int s = 0; s < 3; s++) {
        if (s == 2)
            before = memory_in_use();
        double spent = connect_range(&p, fd, from, steps[s]);
        printf("%d pairs: %.3f ms for each\n", steps[s], spent * 1e3 / (steps[s] - from));
        CHECK(spent < 1e-3 * (steps[s] - from));
        if (s == 2) {
            long each = (memory_in_use() - before) / (steps[s] - from);
            printf("%ld KiB for each\n", each / 1024);
            CHECK(each < 64 << 10);
        }
        exchange(&p, fd, from, steps[s], 5, 1000);
        from = steps[s];
    }
    double t = now();
    exchange(&p, fd, 0, count, 99, 77);
    printf("%d times SEND and WRITE each way: %.2f s\n", count, now() - t);
    for (int i = 0; i < count; i++)
        p.qp[i]->qp_context = (void *)(intptr_t)i;
    CHECK(!kill(pid, SIGKILL) && waitpid(pid, NULL, 0) == pid);
    t = now();
    if (with_srq)
        await_events(&p);
    else
        await_flushed(&p, t);
    for (int i = 0; i < count; i++) {
        struct ibv_qp_attr attr;
        struct ibv_qp_init_attr init;
        CHECK(!ibv_query_qp(p.qp[i], &attr, IBV_QP_STATE, &init));
        if (attr.qp_state != IBV_QPS_ERR)
            FAIL("QP %d is in state %d after the death of its peer", i, attr.qp_state);
    }
    printf("all in error after %.2f s\n", now() - t);
    t = now();
    for (int i = 0; i < count; i++)
        CHECK(!ibv_destroy_qp(p.qp[i]));
    printf("%.3f ms to destroy one\n", (now() - t) * 1e3 / count);
    CHECK(!p.srq || !ibv_destroy_srq(p.srq));
    CHECK(!ibv_dereg_mr(p.mr));
    close_node(&p.n);
}

/* -- memory regions ------------------------------------------------------------------------- */

#define REGION 256

static int region_count;

static void regions_child(int fd)
{
    struct node n = open_node(1);
    unsigned char *buffer = pages(PAGE);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, buffer, PAGE, ALL_ACCESS);
    struct ibv_qp *qp = make_qp(&n, ALL_ACCESS);
    struct address mine = address_of(qp), peer;
    struct side *theirs = calloc((size_t)region_count, sizeof *theirs);
    put(fd, &mine, sizeof mine);
    get(fd, &peer, sizeof peer);
    connect_qp(qp, &peer);
    get(fd, theirs, sizeof *theirs * (size_t)region_count);
    for (int i = 0; i < region_count; i++) {
        fill(buffer, REGION, (unsigned)i);
        post(qp, (uint64_t)i, IBV_WR_RDMA_WRITE, buffer, REGION, mr->lkey, theirs[i].memory, theirs[i].key);
        expect(n.cq, (uint64_t)i, IBV_WC_SUCCESS);
    }
    char c;
    put(fd, "w", 1);
    get(fd, &c, 1);
    /* They are gone. */
    post(qp, 1, IBV_WR_RDMA_WRITE, buffer, REGION, mr->lkey, theirs[region_count / 2].memory, theirs[region_count / 2].key);
    expect(n.cq, 1, IBV_WC_REM_ACCESS_ERR);
}

static void regions(int count, int loops)
{
    region_count = count;
    pid_t pid;
    int fd = fork_peer(regions_child, &pid);
    struct node n = open_node(0);
    size_t len = (size_t)count * REGION;
    unsigned char *memory = pages(len);
    struct ibv_mr **mr = calloc((size_t)count, sizeof *mr);
    struct side *mine = calloc((size_t)count, sizeof *mine);
    struct ibv_qp *qp = make_qp(&n, ALL_ACCESS);
    struct address me = address_of(qp), peer;
    get(fd, &peer, sizeof peer);
    put(fd, &me, sizeof me);
    connect_qp(qp, &peer);
    double t = now();
    for (int i = 0; i < count; i++) {
        CHECK(mr[i] = ibv_reg_mr(n.pd, memory + (size_t)i * REGION, REGION, ALL_ACCESS));
        mine[i] = (struct side){(uintptr_t)mr[i]->addr, mr[i]->rkey};
    }
    printf("%d regions: %.1f us to register one\n", count, (now() - t) * 1e6 / count);
    put(fd, mine, sizeof *mine * (size_t)count);
    char c;
    get(fd, &c, 1);
    for (int i = 0; i < count; i++)
        CHECK(is_filled(memory + (size_t)i * REGION, REGION, (unsigned)i));
    t = now();
    for (int i = 0; i < count; i++)
        CHECK(!ibv_dereg_mr(mr[i]));
    printf("%.1f us to deregister one that a peer has used\n", (now() - t) * 1e6 / count);
    put(fd, "g", 1);
    reap(pid);
    long before = 0;
    t = now();
    for (int i = 0; i < loops; i++) {
        struct ibv_mr *m = ibv_reg_mr(n.pd, memory + (size_t)(i % 97) * 4096, 1 + (size_t)i % 20000, ALL_ACCESS);
        CHECK(m && !ibv_dereg_mr(m));
        if (i == loops * 7 / 10) /* the device's table of mappings has been gone through once */
            before = memory_in_use();
    }
    long grown = memory_in_use() - before;
    printf("%d times: %.1f us, memory grew by %ld KiB\n", loops, (now() - t) * 1e6 / loops, grown / 1024);
    CHECK(grown < 64 << 10);
    CHECK(!ibv_destroy_qp(qp));
    close_node(&n);
}

int main(int argc, char **argv)
{
    CHECK(argc > 2 && (strcmp(argv[1], "regions") ? atoi(argv[2]) > 1000 : argc > 3));
    what = argv[1];
    signal(SIGPIPE, SIG_IGN);
    if (!strcmp(what, "pairs") || !strcmp(what, "srq"))
        pairs(atoi(argv[2]), !strcmp(what, "srq"));
    else if (!strcmp(what, "regions") && argc > 3)
        regions(atoi(argv[2]), atoi(argv[3]));
    else
        return 2;
    return 0;
}
