/* Two processes exchange a random mix of all requests for a while, on RC, UC and XRC queue pairs, with and without SRQs, polling and
 * asleep; queue pairs fail and are reset or made anew, memory is deregistered under traffic, and the processes are killed
 * and started again.
 *
 * Usage: stress SECONDS KILLS SEED [LANES]. LANES is a mask of the lanes that run. STRESS_STOP set: what finds an error waits, for a debugger.
 * Exit code 0: nothing was lost, nothing was corrupt, and after closing the devices both processes held what they held before. */
#define _GNU_SOURCE /* POLLRDHUP */
#include "stress_round.h"
#include <dirent.h>
#include <stddef.h>
#include <sys/un.h>

static const struct lane_kind kinds[] = {
    {"RC", IBV_QPT_RC, 0, 0, 2, 2 << 20},
    {"RC, asleep", IBV_QPT_RC, 0, 1, 2, 2 << 20},
    {"RC, SRQ", IBV_QPT_RC, 1, 0, 3, 2 << 20},
    {"RC, SRQ, asleep", IBV_QPT_RC, 1, 1, 2, 2 << 20},
    {"UC", IBV_QPT_UC, 0, 0, 2, 2 << 20},
    {"UC, asleep", IBV_QPT_UC, 0, 1, 1, 2 << 20},
    {"XRC", IBV_QPT_XRC_SEND, 1, 0, 2, 2 << 20},
    {"XRC, asleep", IBV_QPT_XRC_SEND, 1, 1, 1, 2 << 20},
    {"RC, large", IBV_QPT_RC, 0, 0, 1, 24 << 20},
};
enum { LANES = sizeof kinds / sizeof *kinds };

static unsigned lane_mask = (1u << LANES) - 1;
static uint64_t base_seed;
static struct sockaddr_un place; /* where side 0 listens */
static int listener;
static atomic_int waiting[LANES]; /* partner's sockets + 1, until their lanes take them */

static void plan_round(struct lane *l, int *windows)
{
    uint64_t seed = mix(l->seed ^ (uint64_t)l->round << 32);
    struct dice d = {seed};
    l->fault = roll(&d, 100) < 70 ? NOTHING : (enum fault)(1 + roll(&d, 5));
    if (l->fault == BAD_KEY && is_uc(l))
        l->fault = TO_ERROR;
    l->fault_side = (int)roll(&d, 2);
    l->fault_queue = (int)roll(&d, (uint32_t)l->kind->qps);
    for (int i = 0; i < l->kind->qps; i++)
        for (int side = 0; side < 2; side++) {
            int w = l->fault == DEREG_TARGET ? 0 : (int)roll(&d, 3);
            if (w == 2 && is_xrc(l))
                w = 1;
            /* Direction `side` writes through a window of the other side. */
            write_script(side == l->side ? &l->queue[i].mine : &l->queue[i].theirs, l->kind, seed, i, side, w == 2);
            struct script *s = side == l->side ? &l->queue[i].mine : &l->queue[i].theirs;
            for (int k = 0; k < s->ops; k++)
                s->op[k].by_window = w && (k & 1);
            if (side != l->side)
                windows[i] = w;
        }
    struct script *s = l->fault_side == l->side ? &l->queue[l->fault_queue].mine : &l->queue[l->fault_queue].theirs;
    l->fault_at = (int)roll(&d, (uint32_t)s->ops);
}

/* Receives, clean memory and windows; -1: the partner went away meanwhile. */
static int prepare_round(struct lane *l, const int *windows)
{
    struct dice d = {mix(l->seed ^ l->round ^ (uint64_t)l->side << 41)};
    for (int i = 0; i < l->kind->qps; i++) {
        struct queue *q = &l->queue[i];
        uint32_t area = l->kind->area;
        q->posted = q->done = q->received = q->receives_posted = q->extra = q->extra_done = q->failed = q->flushed = q->checked = q->ok = 0;
        memset(q->local, UNTOUCHED, q->mine.read_end + 512 < area ? q->mine.read_end + 512 : area);
        memset(q->local + area, UNTOUCHED, q->theirs.landing_end + 512 < area ? q->theirs.landing_end + 512 : area);
        memset(q->target, UNTOUCHED, q->theirs.target_end + 64 < area ? q->theirs.target_end + 64 : area);
        memcpy(q->target, q->theirs.word, sizeof q->theirs.word);
        memset(q->target + 56, 0, 8);
        if (!q->target_mr || (!q->mw && roll(&d, 4) == 0)) {
            if (q->target_mr && roll(&d, 2)) {
                LANE_CHECK(l, !ibv_rereg_mr(q->target_mr, IBV_REREG_MR_CHANGE_TRANSLATION | IBV_REREG_MR_CHANGE_ACCESS, NULL, q->target, area, LANE_ACCESS));
            } else {
                if (q->target_mr)
                    LANE_CHECK(l, !(errno = ibv_dereg_mr(q->target_mr)));
                register_target(l, q);
            }
        }
        if (l->kind->srq)
            continue;
        /* Some come late: the sender is told to try again. UC would drop the message. */
        int late = l->kind->type == IBV_QPT_RC && roll(&d, 3) == 0;
        post_receives(l, i, late ? q->theirs.receives / 2 : q->theirs.receives);
    }
    l->cpu_adds = 0;
    l->struck = 0;
    if (!l->source_mr)
        register_lane(l);
    if (l->srq)
        fill_srq(l);
    for (int i = 0; i < l->kind->qps; i++) {
        struct queue *q = &l->queue[i];
        if (q->window && q->window != windows[i] && unbind_window(l, i))
            return -1;
        if (windows[i] && !q->window && bind_window(l, i, windows[i]))
            return -1;
    }
    return 0;
}

static void strike(struct lane *l)
{
    struct queue *q = &l->queue[l->fault_queue];
    l->struck = 1;
    l->struck_at = now();
    atomic_fetch_add(&board->faults, 1);
    switch (l->fault) {
    case TO_ERROR:
        to_state(l, q->qp, IBV_QPS_ERR);
        to_state(l, q->tgt, IBV_QPS_ERR);
        break;
    case BAD_KEY: {
        struct ibv_sge sge = {(uintptr_t)l->source, 64, l->source_mr->lkey};
        struct ibv_send_wr wr = {.wr_id = id_of(l, l->fault_queue, 0, CONTROL),
                                 .opcode = IBV_WR_RDMA_WRITE,
                                 .send_flags = IBV_SEND_SIGNALED,
                                 .sg_list = &sge,
                                 .num_sge = 1,
                                 .wr.rdma = {l->peer.target[0], l->peer.target_key[0] ^ 0x55}},
                           *bad;
        if (is_xrc(l))
            wr.qp_type.xrc.remote_srqn = l->peer_srq;
        q->extra = 1;
        LANE_CHECK(l, !(errno = ibv_post_send(q->qp, &wr, &bad)));
        break;
    }
    case DEREG_TARGET:
        for (int i = 0; i < l->kind->qps; i++) {
            drop_window(l, &l->queue[i]);
            LANE_CHECK(l, !(errno = ibv_dereg_mr(l->queue[i].target_mr)));
            l->queue[i].target_mr = NULL;
        }
        break;
    case DEREG_SOURCE: {
        struct ibv_mr *mr = l->source_mr;
        uint32_t key = mr->lkey;
        LANE_CHECK(l, !(errno = ibv_dereg_mr(mr)));
        /* Its key goes on being used. */
        static __thread struct ibv_mr dead;
        dead.lkey = key;
        l->source_mr = &dead;
        break;
    }
    case DESTROY_QP:
        destroy_queue(l, q);
        break;
    default:
        break;
    }
}

/* All that is doomed goes to the error state; its requests and receives are flushed. */
static void doom(struct lane *l)
{
    for (int i = 0; i < l->kind->qps; i++)
        if (l->gone || doomed(l, i)) {
            if (state_of(l, l->queue[i].qp) != IBV_QPS_RESET)
                to_state(l, l->queue[i].qp, IBV_QPS_ERR);
            if (state_of(l, l->queue[i].tgt) != IBV_QPS_RESET)
                to_state(l, l->queue[i].tgt, IBV_QPS_ERR);
        }
}

/* Requests that succeeded without being signaled are not reported. */
static int none_signaled(struct queue *q)
{
    for (int i = q->done; i < q->posted; i++)
        if (q->mine.op[i].signaled)
            return 0;
    return 1;
}

static int is_drained(struct lane *l, int i)
{
    struct queue *q = &l->queue[i];
    return !q->qp || (none_signaled(q) && q->extra == q->extra_done && (l->srq || q->received == q->receives_posted));
}

static int is_complete(struct lane *l, int i)
{
    struct queue *q = &l->queue[i];
    return q->done == q->mine.ops && q->received == q->theirs.receives;
}

static void drain(struct lane *l)
{
    double end = now() + PATIENCE;
    for (int i = 0; i < l->kind->qps; i++)
        while ((l->gone || doomed(l, i)) && !is_drained(l, i)) {
            poll_lane(l);
            if (now() > end)
                LANE_FAIL(l, "QP %d is in the error state and not all comes back", i);
        }
    while (poll_lane(l)) {
    }
}

/* The partner was killed: what is under way must end by itself. */
static void mourn(struct lane *l)
{
    l->gone = 1;
    double end = now() + PATIENCE;
    for (int i = 0; i < l->kind->qps; i++) {
        struct queue *q = &l->queue[i];
        while (q->qp && !none_signaled(q)) {
            poll_lane(l);
            if (now() > end)
                LANE_FAIL(l, "the partner is dead and QP %d waits for ever", i);
        }
    }
    doom(l);
    drain(l);
}

/* Waits for completions or the partner's word, asleep. */
static void doze(struct lane *l)
{
    LANE_CHECK(l, !(errno = ibv_req_notify_cq(l->cq, 0)));
    if (poll_lane(l))
        return;
    struct pollfd fd[2] = {{.fd = l->channel->fd, .events = POLLIN}, {.fd = l->fd, .events = POLLIN}};
    if (poll(fd, 2, l->fault != NOTHING ? 1 : (int)(PATIENCE * 1000)) == 0 && l->fault == NOTHING)
        LANE_FAIL(l, "no event; polling finds %d", poll_lane(l));
    struct ibv_cq *cq;
    void *context;
    while (!ibv_get_cq_event(l->channel, &cq, &context)) {
        LANE_CHECK(l, cq == l->cq && context == l);
        l->events++;
        atomic_fetch_add(&board->wakeups, 1);
        if (l->events >= 64) {
            ibv_ack_cq_events(l->cq, l->events);
            l->events = 0;
        }
    }
}

struct report {
    int ok[MAX_QPS];
};

/* Everything on its way. 1: the partner says 'D' for doomed, 0: nothing, -1: it is gone. */
static int listen_to_partner(struct lane *l, char *what_it_said)
{
    ssize_t n = recv(l->fd, what_it_said, 1, MSG_DONTWAIT);
    if (n == 1)
        return 1;
    return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? 0 : -1;
}

/* -1: the partner is gone. */
static int run_round(struct lane *l, struct dice *d, struct report *theirs)
{
    double end = now() + PATIENCE;
    int told = 0, partner_done = 0;
    char c;
    for (;;) {
        int finished = 1, busy = 0;
        for (int i = 0; i < l->kind->qps; i++) {
            struct queue *q = &l->queue[i];
            int stopped = (told && doomed(l, i)) || q->failed || (q->flushed && !is_xrc(l)) || !q->qp;
            if (!l->struck && l->fault != NOTHING && l->fault_side == l->side && i == l->fault_queue && (q->posted == l->fault_at || q->failed))
                strike(l);
            if (!stopped && q->qp && q->posted < q->mine.ops) {
                post_burst(l, i, d);
                busy = 1;
            }
            if (!l->srq && !stopped && q->qp && q->receives_posted < q->theirs.receives && roll(d, 4) == 0)
                post_receives(l, i, q->receives_posted + 1);
            if (!l->srq && q->receives_posted < q->theirs.receives)
                busy = 1;
        }
        int n = poll_lane(l);
        if (l->srq)
            fill_srq(l);
        if (l->kind->type == IBV_QPT_RC && roll(d, 16) == 0) {
            __atomic_fetch_add((uint64_t *)(l->queue[0].target + 56), 3, __ATOMIC_SEQ_CST);
            l->cpu_adds += 3;
        }
        int heard = listen_to_partner(l, &c);
        if (heard < 0)
            return -1;
        int due = heard && c == 'D';
        partner_done |= heard && c == 'F';
        if (l->struck && (l->fault == TO_ERROR || l->fault == DESTROY_QP || now() > l->struck_at + 0.005))
            due = 1;
        for (int i = 0; i < l->kind->qps; i++)
            due |= l->queue[i].failed | l->queue[i].flushed;
        if (due && !told) {
            told = 1;
            doom(l);
            if (send(l->fd, "D", 1, MSG_NOSIGNAL) != 1)
                return -1;
            drain(l);
        }
        for (int i = 0; i < l->kind->qps; i++)
            finished &= doomed(l, i) ? told : is_complete(l, i);
        if (finished)
            break;
        if (now() > end)
            LANE_FAIL(l, "nothing happens any more");
        if (n || busy || heard)
            continue;
        if (l->kind->events)
            doze(l);
        else
            sched_yield();
    }
    struct report mine = {{0}};
    for (int i = 0; i < l->kind->qps; i++)
        mine.ok[i] = l->queue[i].ok;
    if (send(l->fd, "F", 1, MSG_NOSIGNAL) != 1)
        return -1;
    while (!partner_done) {
        /* Asleep: what the partner still reads and writes here needs no help of ours. */
        ssize_t n = recv(l->fd, &c, 1, 0);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            LANE_FAIL(l, "the partner does not finish");
        if (n != 1)
            return -1;
        partner_done = c == 'F';
    }
    return swap(l, &mine, theirs, sizeof mine);
}

/* Memory after a round that no one disturbed. */
static void verify(struct lane *l, int i)
{
    struct queue *q = &l->queue[i];
    uint64_t word[WORDS], shared = 0;
    check_writes(l, i, q->theirs.ops);
    words_after(&q->theirs, q->theirs.ops, word);
    LANE_CHECK(l, !memcmp(word, q->target, sizeof word));
    uint32_t end = HEAD * 2;
    LANE_CHECK(l, is_clean(q->target + sizeof word, 56 - sizeof word) && is_clean(q->target + 64, end - 64));
    for (int k = 0; k < q->theirs.ops; k++) {
        struct op *o = &q->theirs.op[k];
        if (o->kind != WRITE && o->kind != WRITE_IMM)
            continue;
        if (!is_clean(q->target + end, o->target - end))
            LANE_FAIL(l, "bytes before WRITE %d to QP %d were touched", k, i);
        end = o->target + o->len;
    }
    if (!is_clean(q->target + end, 64 < l->kind->area - end ? 64 : l->kind->area - end))
        LANE_FAIL(l, "bytes behind the last WRITE to QP %d were touched", i);
    if (i == 0 && l->fault == NOTHING) {
        for (int k = 0; k < l->kind->qps; k++)
            shared += l->queue[k].theirs.shared;
        LANE_CHECK(l, *(uint64_t *)(q->target + 56) == shared + l->cpu_adds);
    }
}

/* What succeeded at the requester has happened here, and of the rest a beginning. */
static void verify_part(struct lane *l, int i, int ok)
{
    struct queue *q = &l->queue[i];
    uint64_t word[WORDS];
    if (is_uc(l))
        return;
    check_writes(l, i, ok);
    for (int k = ok; k <= q->theirs.ops; k++) {
        words_after(&q->theirs, k, word);
        if (!memcmp(word, q->target, sizeof word))
            return;
    }
    LANE_FAIL(l, "atomics of QP %d are neither done nor undone; %d requests succeeded", i, ok);
}

static int one_round(struct lane *l)
{
    int windows[MAX_QPS], last;
    struct report theirs = {{0}};
    struct dice d = {mix(l->seed ^ l->round ^ (uint64_t)l->side << 42)};
    l->round++;
    plan_round(l, windows);
    if (prepare_round(l, windows))
        return -1;
    struct round_info mine = {.source = (uintptr_t)l->source, .source_key = l->source_mr->rkey, .stop = (uint32_t)atomic_load(&board->stop)};
    for (int i = 0; i < l->kind->qps; i++) {
        mine.target[i] = (uintptr_t)l->queue[i].target;
        mine.target_key[i] = l->queue[i].target_mr->rkey;
        mine.window_key[i] = l->queue[i].window_key;
    }
    if (swap(l, &mine, &l->peer, sizeof mine))
        return -1;
    if (mine.stop || l->peer.stop)
        return 1;
    last = run_round(l, &d, &theirs);
    if (l->fault == DEREG_SOURCE && l->struck)
        l->source_mr = NULL;
    if (last)
        return -1;
    for (int i = 0; i < l->kind->qps; i++)
        if (!doomed(l, i))
            verify(l, i);
        else
            verify_part(l, i, theirs.ok[i]);
    atomic_fetch_add(&board->rounds, 1);
    return l->fault == NOTHING ? 0 : connect_lane(l);
}

struct greeting {
    uint32_t lane;
    uint64_t nonce;
};

/* A socket to the partner of this lane: side 0 is found by side 1. -1: the test is over. */
static int find_partner(struct lane *l)
{
    struct timeval patience = {.tv_sec = 2 * (int)PATIENCE};
    while (!atomic_load(&board->stop)) {
        struct greeting mine = {(uint32_t)l->index, mix((uint64_t)getpid() << 20 ^ (uint64_t)(now() * 1e9))}, theirs;
        if (l->side == 0) {
            l->fd = atomic_exchange(&waiting[l->index], 0) - 1;
            if (l->fd < 0) {
                usleep(500);
                continue;
            }
        } else {
            LANE_CHECK(l, (l->fd = socket(AF_UNIX, SOCK_STREAM, 0)) >= 0);
            if (connect(l->fd, (struct sockaddr *)&place, sizeof place) || send(l->fd, &mine.lane, sizeof mine.lane, MSG_NOSIGNAL) < 0) {
                close(l->fd);
                usleep(500);
                continue;
            }
        }
        LANE_CHECK(l, !setsockopt(l->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience));
        /* Who ends now does not take sockets any more. */
        struct pollfd answer = {.fd = l->fd, .events = POLLIN};
        int sent = send(l->fd, &mine, sizeof mine, MSG_NOSIGNAL) == sizeof mine;
        while (sent && !atomic_load(&board->stop) && poll(&answer, 1, 20) == 0) {
        }
        if (sent && answer.revents && recv(l->fd, &theirs, sizeof theirs, MSG_WAITALL) == sizeof theirs) {
            l->seed = mine.nonce ^ theirs.nonce ^ base_seed;
            l->round = 0;
            l->gone = 0;
            return 0;
        }
        close(l->fd);
    }
    return -1;
}

static void *run_lane(void *p)
{
    struct lane *l = p;
    open_lane(l);
    while (!find_partner(l)) {
        int r = connect_lane(l);
        while (!r)
            r = one_round(l);
        if (r < 0) {
            atomic_fetch_add(&board->deaths, 1);
            mourn(l);
        }
        close(l->fd);
        if (r > 0)
            break;
    }
    close_lane(l);
    return NULL;
}

/* Objects come and go while all this happens. */
static void *churn(void *p)
{
    struct process *process = p;
    struct dice d = {(uint64_t)getpid()};
    unsigned char *memory = pages(64 * PAGE);
    while (!atomic_load(&board->stop)) {
        struct ibv_context *ctx = process->ctx[roll(&d, 2)];
        struct ibv_pd *pd = ibv_alloc_pd(ctx);
        CHECK(pd);
        struct ibv_mr *mr[8];
        for (int i = 0; i < 8; i++)
            CHECK(mr[i] = ibv_reg_mr(pd, memory + roll(&d, 32) * PAGE, 1 + roll(&d, 32 * PAGE), LANE_ACCESS));
        struct ibv_comp_channel *channel = ibv_create_comp_channel(ctx);
        CHECK(channel);
        struct ibv_cq *cq = ibv_create_cq(ctx, 16, NULL, channel, 0);
        CHECK(cq && !ibv_req_notify_cq(cq, 0) && !ibv_resize_cq(cq, 64));
        struct ibv_srq_init_attr srq_init = {.attr = {.max_wr = 8, .max_sge = 1}};
        struct ibv_srq *srq = ibv_create_srq(pd, &srq_init);
        struct ibv_qp_init_attr init = {.qp_type = roll(&d, 2) ? IBV_QPT_RC : IBV_QPT_UC, .send_cq = cq, .recv_cq = cq, .srq = srq, .cap = {.max_send_wr = 4, .max_send_sge = 1}};
        struct ibv_qp *a = ibv_create_qp(pd, &init), *b = ibv_create_qp(pd, &init);
        struct ibv_mw *mw = ibv_alloc_mw(pd, IBV_MW_TYPE_2);
        CHECK(srq && a && b && mw && !ibv_dealloc_mw(mw) && !ibv_destroy_qp(a) && !ibv_destroy_qp(b) && !ibv_destroy_srq(srq));
        CHECK(!ibv_destroy_cq(cq) && !ibv_destroy_comp_channel(channel));
        for (int i = 0; i < 8; i++)
            CHECK(!ibv_dereg_mr(mr[i]));
        CHECK(!ibv_dealloc_pd(pd));
        atomic_fetch_add(&board->churned, 1);
        usleep(roll(&d, 4000));
    }
    munmap(memory, 64 * PAGE);
    return NULL;
}

/* Reads and acknowledges asynchronous events. */
static void *listen_to_device(void *p)
{
    struct ibv_context *ctx = p;
    struct pollfd fd = {.fd = ctx->async_fd, .events = POLLIN};
    while (atomic_load(&board->stop) < 2) {
        struct ibv_async_event event;
        if (poll(&fd, 1, 20) == 1 && !ibv_get_async_event(ctx, &event)) {
            if (event.event_type == IBV_EVENT_DEVICE_FATAL || event.event_type == IBV_EVENT_CQ_ERR)
                FAIL("asynchronous event: %s", ibv_event_type_str(event.event_type));
            ibv_ack_async_event(&event);
        }
    }
    return NULL;
}

static void *accept_partners(void *unused)
{
    while (!atomic_load(&board->stop)) {
        struct pollfd fd = {.fd = listener, .events = POLLIN};
        uint32_t lane;
        if (poll(&fd, 1, 20) != 1)
            continue;
        int s = accept(listener, NULL, NULL);
        if (s < 0)
            continue;
        if (recv(s, &lane, sizeof lane, MSG_WAITALL) != sizeof lane || lane >= LANES) {
            close(s);
            continue;
        }
        int old = atomic_exchange(&waiting[lane], s + 1);
        if (old)
            close(old - 1);
    }
    return unused;
}

static int entries(const char *path)
{
    int n = 0;
    DIR *dir = opendir(path);
    CHECK(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void open_process(struct process *p)
{
    for (int i = 0; i < 2; i++) {
        p->ctx[i] = open_device(i == 1 && p->side == 1);
        CHECK(p->pd[i] = ibv_alloc_pd(p->ctx[i]));
        struct ibv_xrcd_init_attr init = {.comp_mask = IBV_XRCD_INIT_ATTR_FD | IBV_XRCD_INIT_ATTR_OFLAGS, .fd = -1, .oflags = O_CREAT};
        CHECK(p->xrcd[i] = ibv_open_xrcd(p->ctx[i], &init));
    }
}

static void close_process(struct process *p)
{
    for (int i = 0; i < 2; i++)
        CHECK(!ibv_close_xrcd(p->xrcd[i]) && !ibv_dealloc_pd(p->pd[i]) && !ibv_close_device(p->ctx[i]));
}

static void run_process(int side)
{
    static struct lane lanes[LANES];
    static struct process process;
    pthread_t thread[LANES], churner, acceptor, listeners[2];
    process.side = side;
    open_process(&process);
    close_process(&process);
    int descriptors = entries("/proc/self/fd"), tasks = entries("/proc/self/task");
    open_process(&process);
    for (int i = 0; i < 2; i++)
        CHECK(!pthread_create(&listeners[i], NULL, listen_to_device, process.ctx[i]));
    if (!side)
        CHECK(!pthread_create(&acceptor, NULL, accept_partners, NULL));
    CHECK(!pthread_create(&churner, NULL, churn, &process));
    for (int i = 0; i < LANES; i++) {
        lanes[i] = (struct lane){.kind = &kinds[i], .process = &process, .index = i, .side = side};
        if (lane_mask >> i & 1)
            CHECK(!pthread_create(&thread[i], NULL, run_lane, &lanes[i]));
    }
    for (int i = 0; i < LANES; i++)
        if (lane_mask >> i & 1)
            pthread_join(thread[i], NULL);
    pthread_join(churner, NULL);
    if (!side)
        pthread_join(acceptor, NULL);
    for (int i = 0; i < LANES; i++)
        if (atomic_load(&waiting[i]))
            close(atomic_load(&waiting[i]) - 1);
    atomic_store(&board->stop, 2);
    for (int i = 0; i < 2; i++)
        pthread_join(listeners[i], NULL);
    close_process(&process);
    int descriptors_now, tasks_now;
    double end = now() + 5;
    do { /* the device's thread lets go of the partner in its own time */
        usleep(1000);
        descriptors_now = entries("/proc/self/fd"), tasks_now = entries("/proc/self/task");
    } while (descriptors != descriptors_now && now() < end);
    if (descriptors != descriptors_now || tasks != tasks_now)
        FAIL("side %d: %d descriptors, %d threads before, %d and %d after", side, descriptors, tasks, descriptors_now, tasks_now);
}

static pid_t start(int side)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (!pid) {
        run_process(side);
        _exit(0);
    }
    return pid;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: stress SECONDS KILLS SEED [LANES]\n");
        return 2;
    }
    double seconds = atof(argv[1]);
    int kills = atoi(argv[2]), killed = 0, result = 0;
    base_seed = strtoull(argv[3], NULL, 0);
    if (argc > 4)
        lane_mask = (unsigned)strtoul(argv[4], NULL, 0);
    what = "stress";
    signal(SIGPIPE, SIG_IGN);
    board = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(board != MAP_FAILED);
    place.sun_family = AF_UNIX;
    snprintf(place.sun_path + 1, sizeof place.sun_path - 1, "gaudi-stress-%d", getpid());
    CHECK((listener = socket(AF_UNIX, SOCK_STREAM, 0)) >= 0);
    CHECK(!bind(listener, (struct sockaddr *)&place, sizeof place) && !listen(listener, 64));
    struct dice d = {base_seed};
    pid_t pid[2] = {start(0), start(1)};
    double begun = now(), next_kill = begun + (kills ? seconds / (kills + 1) : 1e9), last = begun;
    unsigned long long seen = 0;
    while (pid[0] || pid[1]) {
        usleep(2000);
        for (int side = 0; side < 2; side++) {
            int status;
            if (pid[side] && waitpid(pid[side], &status, WNOHANG) == pid[side]) {
                if (status || !atomic_load(&board->stop)) {
                    fprintf(stderr, "side %d ended with status %#x\n", side, status);
                    result = 1;
                }
                pid[side] = 0;
            }
        }
        if (!result && killed < kills && now() > next_kill && !atomic_load(&board->stop)) {
            int side = (int)roll(&d, 2);
            usleep(roll(&d, 20000));
            kill(pid[side], SIGKILL);
            waitpid(pid[side], NULL, 0);
            killed++;
            next_kill += seconds / (kills + 1);
            usleep(roll(&d, 2) ? roll(&d, 300000) : 0);
            pid[side] = start(side);
        }
        if (now() > begun + seconds && !atomic_load(&board->stop))
            atomic_store(&board->stop, 1);
        if (atomic_load(&board->rounds) != seen || killed < kills)
            seen = atomic_load(&board->rounds), last = now();
        if (now() > last + 3 * PATIENCE)
            fprintf(stderr, "no round ends any more\n"), result = 1;
        if (result)
            sleep(2); /* the other one may have something to say */
        for (int side = 0; result && side < 2 && !getenv("STRESS_STOP"); side++)
            if (pid[side]) {
                kill(pid[side], SIGKILL);
                waitpid(pid[side], NULL, 0);
                pid[side] = 0;
            }
    }
    printf("%.0f s, %llu rounds, %llu requests, %.1f GB, %llu faults, %llu lanes lost their partner in %d kills, %llu events, %llu times objects\n",
           now() - begun, board->rounds, board->requests, (double)board->bytes / 1e9, board->faults, board->deaths, killed, board->wakeups, board->churned);
    for (int i = 0; i < 32; i++)
        if (board->statuses[i])
            printf("  %s: %llu\n", ibv_wc_status_str((enum ibv_wc_status)i), board->statuses[i]);
    if (!result && (board->rounds == 0 || board->requests == 0))
        result = 1;
    return result;
}
