/* Wrong keys, bounds, rights and lengths: the right status, and not one byte written.
 *
 * Usage: access SECOND_DEVICE. The other process owns the memory that is attacked and serves commands; while it waits for one it
 * does not poll. All cases run; the exit code is 1 when one failed. */
#define _GNU_SOURCE
#include "util.h"

#define AREA (8 * PAGE)
#define MR_AT (PAGE + 100) /* guard bytes before and behind it in the same pages */
#define MR_LEN 5000

enum { KEY_RW, KEY_READ_ONLY, KEY_LOCAL, KEY_OTHER_PD, KEY_REVOKED, KEY_GONE, KEYS };

struct keys {
    uint64_t address[KEYS];
    uint32_t rkey[KEYS];
};

/* One command of the attacker. */
struct command {
    char op; /* q: new QP, s: take the memory as it is as right, g: compare with that, d: dereg, p: poll, r: post a receive, x: exit */
    int access, min_rnr_timer, receives;
    uint32_t receive_len, receive_key; /* key 0: the right one; 1: one that does not exist; 2: without local write; 3: of the other PD */
    double seconds;
    struct address peer;
};

/* ---------------------------------------------------------------------------------------- the owner of the memory */

static int second;

static uint32_t lkey_for(const struct command *c, struct ibv_mr *good, struct ibv_mr *read_only, struct ibv_mr *other_pd)
{
    switch (c->receive_key) {
    case 1:
        return good->lkey ^ 0x5a5a00;
    case 2:
        return read_only->lkey;
    case 3:
        return other_pd->lkey;
    default:
        return good->lkey;
    }
}

static void owner(int fd)
{
    struct node n = open_node(second);
    struct ibv_pd *other = ibv_alloc_pd(n.ctx);
    unsigned char *area = pages(AREA), *receive = pages(16 * PAGE), *shadow = malloc(AREA + 16 * PAGE);
    /* A page of a file that is cut off later: the address stays taken, so that nothing else comes to stand there. */
    int file = memfd_create("gone", MFD_CLOEXEC);
    CHECK(file >= 0 && !ftruncate(file, PAGE));
    unsigned char *gone = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(gone != MAP_FAILED);
    fill(area, AREA, 1);
    fill(receive, 16 * PAGE, 2);
    int no_write = IBV_ACCESS_REMOTE_READ;
    struct ibv_mr *mr[KEYS] = {
        [KEY_RW] = ibv_reg_mr(n.pd, area + MR_AT, MR_LEN, ALL_ACCESS),
        [KEY_READ_ONLY] = ibv_reg_mr(n.pd, area + MR_AT, MR_LEN, no_write),
        [KEY_LOCAL] = ibv_reg_mr(n.pd, area + MR_AT, MR_LEN, IBV_ACCESS_LOCAL_WRITE),
        [KEY_OTHER_PD] = ibv_reg_mr(other, area + MR_AT, MR_LEN, ALL_ACCESS),
        [KEY_REVOKED] = ibv_reg_mr(n.pd, area + MR_AT, MR_LEN, ALL_ACCESS),
        [KEY_GONE] = ibv_reg_mr(n.pd, gone, PAGE, ALL_ACCESS),
    };
    struct ibv_mr *good = ibv_reg_mr(n.pd, receive, 16 * PAGE, IBV_ACCESS_LOCAL_WRITE);
    struct ibv_mr *read_only = ibv_reg_mr(n.pd, receive, 16 * PAGE, 0);
    struct ibv_mr *other_pd = ibv_reg_mr(other, receive, 16 * PAGE, IBV_ACCESS_LOCAL_WRITE);
    CHECK(good && read_only && other_pd);
    CHECK(!ftruncate(file, 0));
    struct keys keys;
    for (int i = 0; i < KEYS; i++) {
        CHECK(mr[i]);
        keys.address[i] = (uintptr_t)mr[i]->addr;
        keys.rkey[i] = mr[i]->rkey;
    }
    put(fd, &keys, sizeof keys);
    struct ibv_qp *qp = NULL;
    uint64_t next_receive = 0;
    for (;;) {
        struct command c;
        get(fd, &c, sizeof c);
        switch (c.op) {
        case 'q': {
            struct ibv_wc wc;
            if (qp)
                CHECK(!ibv_destroy_qp(qp));
            while (ibv_poll_cq(n.cq, 1, &wc) > 0)
                ;
            qp = make_qp(&n, c.access);
            next_receive = 0;
            for (int i = 0; i < c.receives; i++)
                post_recv(qp, next_receive++, receive, c.receive_len, lkey_for(&c, good, read_only, other_pd));
            to_rtr(qp, &c.peer, c.min_rnr_timer);
            to_rts(qp, 7);
            struct address me = address_of(qp);
            put(fd, &me, sizeof me);
            break;
        }
        case 'r':
            post_recv(qp, next_receive++, receive, c.receive_len, lkey_for(&c, good, read_only, other_pd));
            put(fd, "k", 1);
            break;
        case 's':
            memcpy(shadow, area, AREA);
            memcpy(shadow + AREA, receive, 16 * PAGE);
            put(fd, "k", 1);
            break;
        case 'g': {
            int at = -1;
            for (int i = 0; i < AREA + 16 * PAGE && at < 0; i++)
                if (shadow[i] != (i < AREA ? area[i] : receive[i - AREA]))
                    at = i;
            put(fd, &at, sizeof at);
            break;
        }
        case 'm': { /* whether the receive buffer begins with the pattern of `receives`, `receive_len` bytes long */
            int same = is_filled(receive, c.receive_len, c.receives);
            put(fd, &same, sizeof same);
            break;
        }
        case 'd':
            CHECK(!ibv_dereg_mr(mr[KEY_REVOKED]));
            put(fd, "k", 1);
            break;
        case 'p': {
            struct ibv_wc wc = {.wr_id = UINT64_MAX};
            poll_for(n.cq, &wc, c.seconds);
            put(fd, &wc, sizeof wc);
            break;
        }
        default:
            CHECK(!ibv_destroy_qp(qp));
            return;
        }
    }
}

/* ------------------------------------------------------------------------------------------------- the attacker */

static struct node n;
static int fd, failed;
static struct keys keys;
static struct ibv_mr *mr, *tight, *other_pd_mr;
static unsigned char *buffer;

#define SOFT(x, ...)                                                                                                           \
    do {                                                                                                                       \
        if (!(x)) {                                                                                                            \
            fprintf(stderr, "%s: %s:%d: ", what, __FILE__, __LINE__);                                                          \
            fprintf(stderr, __VA_ARGS__);                                                                                      \
            fputc('\n', stderr);                                                                                               \
            failed++;                                                                                                          \
        }                                                                                                                      \
    } while (0)

static void tell(char op)
{
    struct command c = {.op = op};
    char k;
    put(fd, &c, sizeof c);
    get(fd, &k, 1);
}

/* A fresh pair of QPs, the other side with `receives` receives. */
static struct ibv_qp *pair(struct command c, int rnr_retry)
{
    struct ibv_wc wc;
    struct address peer;
    while (ibv_poll_cq(n.cq, 1, &wc) > 0)
        ;
    struct ibv_qp *qp = make_qp(&n, ALL_ACCESS);
    c.op = 'q';
    c.peer = address_of(qp);
    if (!c.access)
        c.access = ALL_ACCESS;
    if (!c.min_rnr_timer)
        c.min_rnr_timer = 1; /* 10 us */
    put(fd, &c, sizeof c);
    get(fd, &peer, sizeof peer);
    to_rtr(qp, &peer, 1);
    to_rts(qp, rnr_retry);
    return qp;
}

static struct ibv_wc peer_wc(double seconds)
{
    struct command c = {.op = 'p', .seconds = seconds};
    struct ibv_wc wc;
    put(fd, &c, sizeof c);
    get(fd, &wc, sizeof wc);
    return wc;
}

static void guards(void)
{
    struct command c = {.op = 'g'};
    int at;
    put(fd, &c, sizeof c);
    get(fd, &at, sizeof at);
    SOFT(at < 0, "byte %d of the other side's memory was changed", at);
}

static int received(uint32_t len, int seed)
{
    struct command c = {.op = 'm', .receive_len = len, .receives = seed};
    int same;
    put(fd, &c, sizeof c);
    get(fd, &same, sizeof same);
    return same;
}

/* The next completion here: `status` (or `other`), and what follows is flushed in order. */
static void fails_with(struct ibv_qp *qp, uint64_t wr_id, enum ibv_wc_status status, enum ibv_wc_status other)
{
    struct ibv_wc wc;
    if (!poll_for(n.cq, &wc, 15)) {
        SOFT(0, "no completion within 15 s; expected %s", ibv_wc_status_str(status));
        return;
    }
    SOFT(wc.wr_id == wr_id && (wc.status == status || wc.status == other), "completion of %llu with %s (vendor %u); expected %llu with %s",
         (unsigned long long)wc.wr_id, ibv_wc_status_str(wc.status), wc.vendor_err, (unsigned long long)wr_id, ibv_wc_status_str(status));
    struct ibv_qp_attr attr;
    struct ibv_qp_init_attr init;
    CHECK(!ibv_query_qp(qp, &attr, IBV_QP_STATE, &init));
    SOFT(attr.qp_state == IBV_QPS_ERR, "QP state %d", attr.qp_state);
    for (int i = 1; i <= 3; i++)
        post_one_send(qp, 1000 + i, mr, buffer, 8);
    post_recv(qp, 2000, buffer, 8, mr->lkey);
    int flushed = 0;
    for (int i = 1; i <= 4 && poll_for(n.cq, &wc, 5); i++) {
        SOFT(wc.status == IBV_WC_WR_FLUSH_ERR, "%llu behind the error: %s", (unsigned long long)wc.wr_id, ibv_wc_status_str(wc.status));
        if (wc.wr_id != 2000)
            SOFT(wc.wr_id == 1001u + flushed++, "flushed out of order: %llu", (unsigned long long)wc.wr_id);
    }
    SOFT(flushed == 3, "%d of 3 sends behind the error were flushed", flushed);
}

static void done(struct ibv_qp *qp)
{
    CHECK(!ibv_destroy_qp(qp));
}

static void succeeds(uint64_t wr_id)
{
    struct ibv_wc wc;
    if (!poll_for(n.cq, &wc, 15))
        SOFT(0, "no completion within 15 s");
    else
        SOFT(wc.wr_id == wr_id && wc.status == IBV_WC_SUCCESS, "completion of %llu with %s", (unsigned long long)wc.wr_id,
             ibv_wc_status_str(wc.status));
}

/* A WRITE, then a WRITE_WITH_IMM, that the other side must refuse. */
static void refused(const char *name, uint64_t remote, uint32_t rkey, uint32_t len, int access, enum ibv_wc_status status,
                    enum ibv_wc_status other)
{
    static const enum ibv_wr_opcode ops[] = {IBV_WR_RDMA_WRITE, IBV_WR_RDMA_WRITE_WITH_IMM};
    for (int i = 0; i < 2; i++) {
        char title[100];
        snprintf(title, sizeof title, "%s%s", name, i ? ", with immediate" : "");
        what = title;
        struct ibv_qp *qp = pair((struct command){.receives = 2, .receive_len = PAGE, .access = access}, 7);
        tell('s');
        post(qp, 1, ops[i], buffer, len, mr->lkey, remote, rkey);
        fails_with(qp, 1, status, other);
        guards();
        struct ibv_wc wc = peer_wc(5);
        SOFT(wc.wr_id == 0 && wc.status == IBV_WC_WR_FLUSH_ERR, "the other side's receive: %s (wr_id %lld)", ibv_wc_status_str(wc.status),
             (long long)wc.wr_id);
        done(qp);
        what = "between";
    }
}

static void remote_keys(void)
{
    uint64_t at = keys.address[KEY_RW];
    uint32_t rkey = keys.rkey[KEY_RW];
    enum ibv_wc_status no = IBV_WC_REM_ACCESS_ERR;
    refused("wrong rkey", at, rkey ^ 0x5a5a00, 100, 0, no, no);
    refused("rkey 0", at, 0, 100, 0, no, no);
    refused("tag of the rkey", at, rkey ^ 1, 100, 0, no, no);
    refused("one byte behind the end", at, rkey, MR_LEN + 1, 0, no, no);
    refused("last byte and the next", at + MR_LEN - 1, rkey, 2, 0, no, no);
    refused("one byte before the start", at - 1, rkey, 100, 0, no, no);
    refused("behind the end", at + MR_LEN, rkey, 1, 0, no, no);
    refused("around the end of the address space", UINT64_MAX - 50, rkey, 100, 0, no, no);
    refused("other PD", keys.address[KEY_OTHER_PD], keys.rkey[KEY_OTHER_PD], 100, 0, no, no);
    refused("only remote read", keys.address[KEY_READ_ONLY], keys.rkey[KEY_READ_ONLY], 100, 0, no, no);
    refused("no remote right", keys.address[KEY_LOCAL], keys.rkey[KEY_LOCAL], 100, 0, no, no);
    /* The QP does not take WRITEs: IBA lets it be called an invalid request. */
    refused("QP without remote write", at, rkey, 100, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ, no, IBV_WC_REM_INV_REQ_ERR);
    refused("memory that is not there any more", keys.address[KEY_GONE], keys.rkey[KEY_GONE], 100, 0, IBV_WC_REM_OP_ERR, no);

    what = "revoked";
    struct ibv_qp *qp = pair((struct command){.receives = 1, .receive_len = PAGE}, 7);
    post(qp, 1, IBV_WR_RDMA_WRITE, buffer, 10, mr->lkey, keys.address[KEY_REVOKED], keys.rkey[KEY_REVOKED]);
    succeeds(1); /* now it is known here */
    tell('d');
    tell('s');
    post(qp, 2, IBV_WR_RDMA_WRITE, buffer + 50, 10, mr->lkey, keys.address[KEY_REVOKED], keys.rkey[KEY_REVOKED]);
    fails_with(qp, 2, no, no);
    guards();
    done(qp);
    refused("revoked, new QP", keys.address[KEY_REVOKED], keys.rkey[KEY_REVOKED], 10, 0, no, no);
}

static void local_keys(void)
{
    static const struct {
        const char *name;
        int key; /* 1: none, 2: too short, 3: other PD */
    } cases[] = {{"lkey that does not exist", 1}, {"lkey one byte too short", 2}, {"lkey of another PD", 3}};
    static const enum ibv_wr_opcode ops[] = {IBV_WR_SEND, IBV_WR_RDMA_WRITE, IBV_WR_SEND_WITH_IMM, IBV_WR_RDMA_WRITE_WITH_IMM};
    for (int c = 0; c < 3; c++)
        for (int o = 0; o < 4; o++)
            for (int big = 0; big < 2; big++) {
                uint32_t len = big ? 3000 : 30;
                what = cases[c].name;
                struct ibv_qp *qp = pair((struct command){.receives = 1, .receive_len = PAGE}, 7);
                tell('s');
                uint32_t key = cases[c].key == 1 ? mr->lkey ^ 0x5a5a00 : cases[c].key == 2 ? tight->lkey : other_pd_mr->lkey;
                unsigned char *at = cases[c].key == 2 ? (unsigned char *)tight->addr + tight->length - len + 1 : buffer;
                post(qp, 1, ops[o], at, len, key, keys.address[KEY_RW], keys.rkey[KEY_RW]);
                fails_with(qp, 1, IBV_WC_LOC_PROT_ERR, IBV_WC_LOC_PROT_ERR);
                guards();
                done(qp);
            }
}

static void receives(void)
{
    static const struct {
        const char *name;
        uint32_t key, len;
        enum ibv_wc_status here, there;
    } cases[] = {
        {"longer than the receive", 0, 99, IBV_WC_REM_INV_REQ_ERR, IBV_WC_LOC_LEN_ERR},
        {"receive with a key that does not exist", 1, 100000, IBV_WC_REM_OP_ERR, IBV_WC_LOC_PROT_ERR},
        {"receive without local write", 2, 100000, IBV_WC_REM_OP_ERR, IBV_WC_LOC_PROT_ERR},
        {"receive with the key of another PD", 3, 100000, IBV_WC_REM_OP_ERR, IBV_WC_LOC_PROT_ERR},
    };
    for (unsigned c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int big = 0; big < 2; big++) {
            uint32_t len = big ? 40000 : 100, have = cases[c].len < 1000 ? len - 1 : 16 * PAGE;
            what = cases[c].name;
            struct ibv_qp *qp = pair((struct command){.receives = 2, .receive_len = have, .receive_key = cases[c].key}, 7);
            tell('s');
            post_one_send(qp, 1, mr, buffer, len);
            fails_with(qp, 1, cases[c].here, cases[c].here);
            struct ibv_wc wc = peer_wc(5);
            SOFT(wc.wr_id == 0 && wc.status == cases[c].there, "%u bytes, the receiver: %s, expected %s", len, ibv_wc_status_str(wc.status),
                 ibv_wc_status_str(cases[c].there));
            wc = peer_wc(5);
            SOFT(wc.wr_id == 1 && wc.status == IBV_WC_WR_FLUSH_ERR, "%u bytes, the next receive: %s", len, ibv_wc_status_str(wc.status));
            if (cases[c].key)
                guards();
            done(qp);
        }
}

static void rnr(void)
{
    for (int retry = 0; retry <= 6; retry++) {
        char title[40];
        snprintf(title, sizeof title, "rnr_retry %d", retry);
        what = title;
        /* Code 14 is 1.28 ms (IBA 9.7.5.2.8). */
        struct ibv_qp *qp = pair((struct command){.receives = 0, .min_rnr_timer = 14}, retry);
        double start = now();
        post_one_send(qp, 1, mr, buffer, 100);
        fails_with(qp, 1, IBV_WC_RNR_RETRY_EXC_ERR, IBV_WC_RNR_RETRY_EXC_ERR);
        SOFT(now() - start >= retry * 0.00128, "gave up after %.2f ms", (now() - start) * 1e3);
        done(qp);
        what = "between";
    }
    static const uint32_t sizes[] = {100, 100000 / 2};
    for (int i = 0; i < 2; i++) {
        what = "rnr_retry 7 waits";
        struct ibv_qp *qp = pair((struct command){.receives = 0, .min_rnr_timer = 14}, 7);
        struct ibv_wc wc;
        fill(buffer, sizes[i], 9 + i);
        post_one_send(qp, 1, mr, buffer, sizes[i]);
        SOFT(!poll_for(n.cq, &wc, 0.3), "a completion (%s) without a receive", ibv_wc_status_str(wc.status));
        struct command c = {.op = 'r', .receive_len = 16 * PAGE};
        char k;
        put(fd, &c, sizeof c);
        get(fd, &k, 1);
        succeeds(1);
        SOFT(received(sizes[i], 9 + i), "the bytes differ");
        done(qp);
    }
}

static void zero_length(void)
{
    static const struct {
        const char *name;
        enum ibv_wr_opcode op;
        int arrives, imm;
    } cases[] = {
        {"SEND of nothing", IBV_WR_SEND, 1, 0},
        {"SEND_WITH_IMM of nothing", IBV_WR_SEND_WITH_IMM, 1, 1},
        {"WRITE of nothing", IBV_WR_RDMA_WRITE, 0, 0},
        {"WRITE_WITH_IMM of nothing", IBV_WR_RDMA_WRITE_WITH_IMM, 1, 1},
    };
    for (unsigned c = 0; c < 4; c++) {
        what = cases[c].name;
        struct ibv_qp *qp = pair((struct command){.receives = 1, .receive_len = 64}, 7);
        tell('s');
        /* A request of no bytes touches no memory, so its key is not looked at (IBA 9.7.4.1.3). */
        post(qp, 7, cases[c].op, NULL, 0, 0, 0x1234, 0x5678);
        succeeds(7);
        guards();
        if (cases[c].arrives) {
            struct ibv_wc wc = peer_wc(5);
            SOFT(wc.wr_id == 0 && wc.status == IBV_WC_SUCCESS && wc.byte_len == 0, "the receiver: %s, %u bytes", ibv_wc_status_str(wc.status),
                 wc.byte_len);
            SOFT(!(wc.wc_flags & IBV_WC_WITH_IMM) == !cases[c].imm, "flags 0x%x", wc.wc_flags);
        } else {
            SOFT(peer_wc(0.05).wr_id == UINT64_MAX, "a receive was taken");
        }
        done(qp);
    }
}

static int post_inline(struct ibv_qp *qp, enum ibv_wr_opcode op, uint32_t len)
{
    struct ibv_sge sge = {.addr = (uintptr_t)buffer, .length = len, .lkey = 0}; /* the key is not looked at */
    struct ibv_send_wr wr = {.wr_id = 1,
                             .opcode = op,
                             .sg_list = &sge,
                             .num_sge = 1,
                             .send_flags = IBV_SEND_SIGNALED | IBV_SEND_INLINE,
                             .wr.rdma = {keys.address[KEY_RW], keys.rkey[KEY_RW]}},
                       *bad = NULL;
    int rc = ibv_post_send(qp, &wr, &bad);
    SOFT(!rc || bad == &wr, "bad_wr");
    return rc;
}

static void inlined(void)
{
    for (int len = 1; len <= 256; len += len < 250 ? 51 : 1) {
        what = "inline";
        struct ibv_qp *qp = pair((struct command){.receives = 1, .receive_len = PAGE}, 7);
        fill(buffer, len, len);
        SOFT(!post_inline(qp, IBV_WR_SEND, len), "%d bytes refused", len);
        memset(buffer, 0xee, len); /* the buffer is free as soon as it is posted */
        succeeds(1);
        SOFT(received(len, len), "%d bytes differ", len);
        fill(buffer, len, len);
        SOFT(!post_inline(qp, IBV_WR_RDMA_WRITE, len), "WRITE of %d bytes refused", len);
        memset(buffer, 0xee, len);
        succeeds(1);
        done(qp);
    }
    what = "inline too long";
    struct ibv_qp *qp = pair((struct command){.receives = 1, .receive_len = PAGE}, 7);
    struct ibv_qp_attr attr;
    struct ibv_qp_init_attr init;
    CHECK(!ibv_query_qp(qp, &attr, IBV_QP_CAP, &init));
    SOFT(init.cap.max_inline_data >= 256, "max_inline_data %u", init.cap.max_inline_data);
    SOFT(post_inline(qp, IBV_WR_SEND, init.cap.max_inline_data + 1), "one byte more than max_inline_data was taken");
    done(qp);
}

static void many_sges(void)
{
    what = "16 SGEs";
    struct ibv_qp *qp = pair((struct command){.receives = 1, .receive_len = 16 * PAGE}, 7);
    struct ibv_sge sges[17];
    uint32_t total = 0;
    unsigned char *at = buffer;
    fill(buffer, 65536, 21);
    for (int i = 0; i < 17; i++) {
        sges[i] = (struct ibv_sge){(uintptr_t)at, i == 4 ? 0 : 1 + i * i * 11, mr->lkey};
        at += sges[i].length; /* consecutive, so that the whole is one pattern */
        if (i < 16)
            total += sges[i].length;
    }
    struct ibv_send_wr wr = {.wr_id = 3, .opcode = IBV_WR_SEND, .sg_list = sges, .num_sge = 16, .send_flags = IBV_SEND_SIGNALED}, *bad;
    CHECK(!(errno = ibv_post_send(qp, &wr, &bad)));
    succeeds(3);
    struct ibv_wc wc = peer_wc(5);
    SOFT(wc.byte_len == total && received(total, 21), "%u of %u bytes, or they differ", wc.byte_len, total);
    wr.opcode = IBV_WR_RDMA_WRITE;
    wr.num_sge = 11;
    wr.wr.rdma.remote_addr = keys.address[KEY_RW];
    wr.wr.rdma.rkey = keys.rkey[KEY_RW];
    CHECK(!(errno = ibv_post_send(qp, &wr, &bad)));
    succeeds(3);
    what = "17 SGEs";
    wr.num_sge = 17;
    bad = NULL;
    SOFT(ibv_post_send(qp, &wr, &bad) && bad == &wr, "were taken");
    done(qp);
}

static void fields(void)
{
    static const struct {
        enum ibv_wr_opcode op;
        enum ibv_wc_opcode here, there;
        int imm;
    } cases[] = {
        {IBV_WR_SEND, IBV_WC_SEND, IBV_WC_RECV, 0},
        {IBV_WR_SEND_WITH_IMM, IBV_WC_SEND, IBV_WC_RECV, 1},
        {IBV_WR_RDMA_WRITE_WITH_IMM, IBV_WC_RDMA_WRITE, IBV_WC_RECV_RDMA_WITH_IMM, 1},
        {IBV_WR_RDMA_WRITE, IBV_WC_RDMA_WRITE, 0, -1},
    };
    static const uint32_t sizes[] = {16, 4000};
    for (int c = 0; c < 4; c++)
        for (int s = 0; s < 2; s++) {
            char title[60];
            snprintf(title, sizeof title, "fields of completions, opcode %d", cases[c].op);
            what = title;
            struct ibv_qp *qp = pair((struct command){.receives = 1, .receive_len = PAGE}, 7);
            post(qp, 77, cases[c].op, buffer, sizes[s], mr->lkey, keys.address[KEY_RW], keys.rkey[KEY_RW]);
            struct ibv_wc wc = {0};
            SOFT(poll_for(n.cq, &wc, 10), "no completion");
            SOFT(wc.status == IBV_WC_SUCCESS && wc.wr_id == 77 && wc.opcode == cases[c].here && wc.qp_num == qp->qp_num,
                 "here: %s, wr_id %llu, opcode %d, QP 0x%x", ibv_wc_status_str(wc.status), (unsigned long long)wc.wr_id, wc.opcode, wc.qp_num);
            SOFT(!(wc.wc_flags & (IBV_WC_GRH | IBV_WC_WITH_IMM)), "here: flags 0x%x", wc.wc_flags);
            if (cases[c].imm >= 0) {
                wc = peer_wc(5);
                SOFT(wc.status == IBV_WC_SUCCESS && wc.wr_id == 0 && wc.opcode == cases[c].there && wc.byte_len == sizes[s],
                     "there: %s, wr_id %llu, opcode %d, %u bytes", ibv_wc_status_str(wc.status), (unsigned long long)wc.wr_id, wc.opcode,
                     wc.byte_len);
                SOFT(wc.wc_flags == (cases[c].imm ? IBV_WC_WITH_IMM : 0u), "there: flags 0x%x", wc.wc_flags);
                SOFT(!cases[c].imm || wc.imm_data == htonl(0xabcd0000u + 77), "there: immediate 0x%x", ntohl(wc.imm_data));
            }
            what = "between";
            done(qp);
        }
}

static void registration(void)
{
    what = "registration";
    errno = 0;
    SOFT(!ibv_reg_mr(n.pd, buffer, PAGE, IBV_ACCESS_REMOTE_WRITE), "remote write without local write was registered");
    SOFT(!ibv_reg_mr(n.pd, buffer, PAGE, IBV_ACCESS_REMOTE_ATOMIC), "remote atomic without local write was registered");
    void *nowhere = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(!munmap(nowhere, PAGE));
    SOFT(!ibv_reg_mr(n.pd, nowhere, PAGE, ALL_ACCESS), "memory that is not there was registered");
    SOFT(!ibv_reg_mr(n.pd, (void *)(UINTPTR_MAX - PAGE + 1), 2 * PAGE, ALL_ACCESS), "a range around the end was registered");
    SOFT(ibv_dealloc_pd(n.pd) == EBUSY, "a PD in use was deallocated");
    what = "iova";
    struct ibv_mr *far = ibv_reg_mr_iova(n.pd, buffer, PAGE, 0x123450000000, ALL_ACCESS);
    SOFT(far, "ibv_reg_mr_iova: %s", strerror(errno));
    if (far) {
        struct ibv_qp *qp = pair((struct command){.receives = 1, .receive_len = PAGE}, 7);
        fill(buffer, 100, 33);
        post(qp, 1, IBV_WR_SEND, (void *)0x123450000000, 100, far->lkey, 0, 0);
        succeeds(1);
        SOFT(received(100, 33), "the bytes differ");
        done(qp);
        CHECK(!ibv_dereg_mr(far));
    }
}

int main(int argc, char **argv)
{
    static void (*const groups[])(void) = {registration, fields, zero_length, inlined, many_sges, local_keys, receives, rnr, remote_keys};
    signal(SIGPIPE, SIG_IGN);
    if (argc != 2) {
        fprintf(stderr, "usage: access SECOND_DEVICE\n");
        return 2;
    }
    second = atoi(argv[1]);
    pid_t pid;
    fd = fork_peer(owner, &pid);
    n = open_node(0);
    struct ibv_pd *other = ibv_alloc_pd(n.ctx);
    buffer = pages(32 * PAGE);
    CHECK(mr = ibv_reg_mr(n.pd, buffer, 32 * PAGE, ALL_ACCESS));
    CHECK(tight = ibv_reg_mr(n.pd, buffer + 50, 3500, ALL_ACCESS));
    CHECK(other_pd_mr = ibv_reg_mr(other, buffer, 32 * PAGE, ALL_ACCESS));
    get(fd, &keys, sizeof keys);
    for (unsigned i = 0; i < sizeof groups / sizeof *groups; i++)
        groups[i]();
    struct command c = {.op = 'x'};
    put(fd, &c, sizeof c);
    what = "end";
    reap(pid);
    if (failed)
        fprintf(stderr, "%d checks failed\n", failed);
    return failed != 0;
}
