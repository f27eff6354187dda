/* Every object used by many threads at once: four post to each of two queue pairs, four poll one CQ, one refills the SRQ's or the receive
 * queues, two create and destroy objects of every kind, one registers and deregisters. Each completion must come exactly once.
 *
 * Usage: threads SECONDS */
#include "util.h"
#include <pthread.h>
#include <stdatomic.h>

enum {
    POSTERS = 4,
    POLLERS = 4,
    PAIRS = 4, /* two with a receive queue of their own, two on the SRQ */
    DEPTH = 48, /* requests of a poster on a QP that are not complete */
    LENGTH = 192,
    RECEIVES = POSTERS * DEPTH,
    MOST = 1 << 20,
};

static struct node n;
static struct ibv_qp *sender[PAIRS], *receiver[PAIRS];
static struct ibv_srq *srq;
static struct ibv_mr *mr;
static unsigned char *memory; /* POSTERS x PAIRS x DEPTH sources, then as many targets of WRITEs, then receives */
static atomic_int stop, pollers_stop;
static atomic_uint posted[PAIRS][POSTERS], completed[PAIRS][POSTERS], received[PAIRS], sends[PAIRS];
static atomic_uchar *seen_send, *seen_receive; /* by number of the request */
/* Completions come in order, and threads look at them in any. */
static atomic_uchar busy[PAIRS][POSTERS][DEPTH];
static atomic_ullong churned, registered;

static unsigned char *source(int pair, int poster, unsigned k)
{
    return memory + ((size_t)(pair * POSTERS + poster) * DEPTH + k % DEPTH) * LENGTH;
}
static unsigned char *target(int pair, int poster, unsigned k)
{
    return source(pair, poster, k) + (size_t)PAIRS * POSTERS * DEPTH * LENGTH;
}
static unsigned char *landing(int pair, int slot)
{
    return memory + (size_t)PAIRS * POSTERS * DEPTH * LENGTH * 2 + ((size_t)pair * RECEIVES + (size_t)slot) * LENGTH;
}

static void receive(int pair, int slot)
{
    struct ibv_sge sge = {(uintptr_t)landing(pair, slot), LENGTH, mr->lkey};
    struct ibv_recv_wr wr = {.wr_id = 1ull << 63 | (uint64_t)pair << 32 | (uint64_t)slot, .sg_list = &sge, .num_sge = 1}, *bad;
    CHECK(!(errno = pair & 1 ? ibv_post_srq_recv(srq, &wr, &bad) : ibv_post_recv(receiver[pair], &wr, &bad)));
}

static uint64_t id_of(int pair, int poster, unsigned k)
{
    return (uint64_t)pair << 40 | (uint64_t)poster << 32 | k;
}

/* SENDs carry their number, WRITEs bring it to a place of its own. */
static void *poster_main(void *p)
{
    int me = (int)(intptr_t)p;
    while (!atomic_load(&stop))
        for (int pair = 0; pair < PAIRS; pair++) {
            unsigned k = atomic_load(&posted[pair][me]);
            if (k >= MOST || atomic_exchange(&busy[pair][me][k % DEPTH], 1))
                continue;
            unsigned char *at = source(pair, me, k);
            uint64_t id = id_of(pair, me, k);
            fill(at, LENGTH, k);
            memcpy(at, &id, sizeof id);
            atomic_store(&posted[pair][me], k + 1);
            if (k % 3 == 2) {
                post(sender[pair], id, IBV_WR_RDMA_WRITE, at, LENGTH, mr->lkey, (uintptr_t)target(pair, me, k), mr->rkey);
            } else {
                atomic_fetch_add(&sends[pair], 1);
                post(sender[pair], id, IBV_WR_SEND, at, LENGTH, mr->lkey, 0, 0);
            }
        }
    return NULL;
}

static int pair_of(uint32_t qpn, struct ibv_qp **among)
{
    for (int i = 0; i < PAIRS; i++)
        if (among[i]->qp_num == qpn)
            return i;
    FAIL("completion of QP %#x", qpn);
}

static void check(const unsigned char *at, uint64_t *id)
{
    static const size_t head = sizeof *id;
    unsigned char right[LENGTH];
    memcpy(id, at, head);
    fill(right, LENGTH, (unsigned)*id);
    if (memcmp(at + head, right + head, LENGTH - head))
        FAIL("the data of request %llx is wrong", (unsigned long long)*id);
}

static void *poller_main(void *unused)
{
    struct ibv_wc wc[5];
    while (!atomic_load(&pollers_stop)) {
        int k = ibv_poll_cq(n.cq, 5, wc);
        CHECK(k >= 0);
        if (!k)
            sched_yield();
        for (int i = 0; i < k; i++) {
            if (wc[i].status != IBV_WC_SUCCESS)
                FAIL("completion %llx: %s", (unsigned long long)wc[i].wr_id, ibv_wc_status_str(wc[i].status));
            uint64_t id = wc[i].wr_id;
            if (id >> 63) {
                int home = (int)(id >> 32 & 0xff), slot = (int)(id & 0xffffffff), pair = pair_of(wc[i].qp_num, receiver);
                uint64_t sent;
                CHECK(wc[i].byte_len == LENGTH && (home & 1) == (pair & 1));
                check(landing(home, slot), &sent);
                CHECK((int)(sent >> 40) == pair);
                size_t at = ((size_t)pair * POSTERS + (size_t)(sent >> 32 & 0xff)) * MOST + (sent & 0xffffffff);
                if (atomic_fetch_add(&seen_receive[at], 1))
                    FAIL("message %llx was received twice", (unsigned long long)sent);
                atomic_fetch_add(&received[pair], 1);
                receive(home, slot);
            } else {
                int pair = pair_of(wc[i].qp_num, sender), poster = (int)(id >> 32 & 0xff);
                unsigned number = (unsigned)id;
                CHECK(pair == (int)(id >> 40));
                if (atomic_fetch_add(&seen_send[((size_t)pair * POSTERS + (size_t)poster) * MOST + number], 1))
                    FAIL("request %llx completed twice", (unsigned long long)id);
                if (wc[i].opcode == IBV_WC_RDMA_WRITE) {
                    uint64_t written;
                    check(target(pair, poster, number), &written);
                    CHECK(written == id);
                }
                atomic_fetch_add(&completed[pair][poster], 1);
                atomic_store(&busy[pair][poster][number % DEPTH], 0);
            }
        }
    }
    return unused;
}

static void *churn_main(void *p)
{
    union ibv_gid gid;
    CHECK(!ibv_query_gid(n.ctx, 1, GID_INDEX, &gid));
    struct ibv_ah_attr path = {.is_global = 1, .port_num = 1, .grh = {.dgid = gid, .sgid_index = GID_INDEX}};
    while (!atomic_load(&stop)) {
        struct ibv_ah *ah = ibv_create_ah(n.pd, &path);
        struct ibv_mw *mw = ibv_alloc_mw(n.pd, IBV_MW_TYPE_1);
        struct ibv_pd *pd = ibv_alloc_pd(n.ctx);
        struct ibv_cq *cq = ibv_create_cq(n.ctx, 8, NULL, NULL, 0);
        CHECK(ah && mw && pd && cq);
        /* On the CQ that the others poll, and on the SRQ that the others fill. */
        struct ibv_qp_init_attr init = {.send_cq = n.cq, .recv_cq = cq, .srq = srq, .qp_type = IBV_QPT_RC, .cap = {4, 0, 1, 0, 0}};
        struct ibv_qp *qp = ibv_create_qp(pd, &init), *other = make_qp(&n, ALL_ACCESS);
        CHECK(qp);
        struct address a = address_of(other);
        connect_qp(other, &a);
        struct ibv_qp_attr attr;
        CHECK(!ibv_query_qp(sender[0], &attr, IBV_QP_STATE, &init) && attr.qp_state == IBV_QPS_RTS);
        CHECK(!ibv_destroy_qp(qp) && !ibv_destroy_qp(other) && !ibv_destroy_cq(cq) && !ibv_dealloc_pd(pd) && !ibv_dealloc_mw(mw) && !ibv_destroy_ah(ah));
        atomic_fetch_add(&churned, 1);
    }
    return p;
}

static void *register_main(void *unused)
{
    while (!atomic_load(&stop)) {
        struct ibv_mr *m = ibv_reg_mr(n.pd, memory, 3 * PAGE, ALL_ACCESS);
        CHECK(m && !ibv_dereg_mr(m));
        atomic_fetch_add(&registered, 1);
    }
    return unused;
}

static unsigned total(atomic_uint *counts, int many)
{
    unsigned sum = 0;
    for (int i = 0; i < many; i++)
        sum += atomic_load(&counts[i]);
    return sum;
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 3;
    what = "threads";
    n.ctx = open_device(0);
    CHECK(n.pd = ibv_alloc_pd(n.ctx));
    CHECK(n.cq = ibv_create_cq(n.ctx, 8192, NULL, NULL, 0));
    size_t len = (size_t)PAIRS * POSTERS * DEPTH * LENGTH * 2 + (size_t)PAIRS * RECEIVES * LENGTH;
    len = (len + PAGE - 1) / PAGE * PAGE;
    memory = pages(len);
    CHECK(mr = ibv_reg_mr(n.pd, memory, len, ALL_ACCESS));
    CHECK(seen_send = (atomic_uchar *)pages((size_t)PAIRS * POSTERS * MOST));
    CHECK(seen_receive = (atomic_uchar *)pages((size_t)PAIRS * POSTERS * MOST));
    struct ibv_srq_init_attr srq_init = {.attr = {.max_wr = PAIRS * RECEIVES, .max_sge = 1}};
    CHECK(srq = ibv_create_srq(n.pd, &srq_init));
    for (int i = 0; i < PAIRS; i++) {
        struct ibv_qp_init_attr init = {.send_cq = n.cq, .recv_cq = n.cq, .qp_type = IBV_QPT_RC, .cap = {POSTERS * DEPTH, RECEIVES, 1, 1, 0}};
        CHECK(sender[i] = ibv_create_qp(n.pd, &init));
        init.srq = i & 1 ? srq : NULL;
        CHECK(receiver[i] = ibv_create_qp(n.pd, &init));
        struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = ALL_ACCESS};
        int mask = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;
        CHECK(!ibv_modify_qp(sender[i], &attr, mask) && !ibv_modify_qp(receiver[i], &attr, mask));
        for (int slot = 0; slot < RECEIVES; slot++)
            receive(i, slot);
        struct address a = address_of(sender[i]), b = address_of(receiver[i]);
        connect_qp(sender[i], &b);
        connect_qp(receiver[i], &a);
    }
    pthread_t poster[POSTERS], poller[POLLERS], other[3];
    for (int i = 0; i < POLLERS; i++)
        CHECK(!pthread_create(&poller[i], NULL, poller_main, NULL));
    for (int i = 0; i < POSTERS; i++)
        CHECK(!pthread_create(&poster[i], NULL, poster_main, (void *)(intptr_t)i));
    CHECK(!pthread_create(&other[0], NULL, churn_main, NULL) && !pthread_create(&other[1], NULL, churn_main, NULL));
    CHECK(!pthread_create(&other[2], NULL, register_main, NULL));
    usleep((useconds_t)(seconds * 1e6));
    atomic_store(&stop, 1);
    for (int i = 0; i < POSTERS; i++)
        pthread_join(poster[i], NULL);
    for (int i = 0; i < 3; i++)
        pthread_join(other[i], NULL);
    unsigned all = total(&posted[0][0], PAIRS * POSTERS), messages = total(sends, PAIRS);
    for (double end = now() + 20; total(&completed[0][0], PAIRS * POSTERS) != all || total(received, PAIRS) != messages;)
        if (now() > end)
            FAIL("%u of %u completed, %u of %u received", total(&completed[0][0], PAIRS * POSTERS), all, total(received, PAIRS), messages);
    usleep(20 * 1000); /* for what comes once too often */
    atomic_store(&pollers_stop, 1);
    for (int i = 0; i < POLLERS; i++)
        pthread_join(poller[i], NULL);
    CHECK(total(&completed[0][0], PAIRS * POSTERS) == all && total(received, PAIRS) == messages);
    for (int i = 0; i < PAIRS; i++)
        CHECK(!ibv_destroy_qp(sender[i]) && !ibv_destroy_qp(receiver[i]));
    CHECK(!ibv_destroy_srq(srq) && !ibv_dereg_mr(mr));
    close_node(&n);
    printf("%u requests, %u messages, %llu times objects, %llu registrations\n", all, messages, (unsigned long long)churned, (unsigned long long)registered);
    return 0;
}
