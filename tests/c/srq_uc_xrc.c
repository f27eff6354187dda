/* Shared receive queues and their events, UC without its peer, XRC domains.
 *
 * Usage: srq_uc_xrc CASE SECOND_DEVICE. Exit code 0: all as it must be. */
#include "util.h"
#include <fcntl.h>
#include <poll.h>

static int second;

static struct ibv_qp *new_qp(struct node *n, enum ibv_qp_type type, struct ibv_srq *srq)
{
    struct ibv_qp_init_attr init = {
        .send_cq = n->cq,
        .recv_cq = n->cq,
        .srq = srq,
        .qp_type = type,
        .cap = {.max_send_wr = 128, .max_recv_wr = 256, .max_send_sge = 4, .max_recv_sge = 4},
    };
    struct ibv_qp *qp = ibv_create_qp(n->pd, &init);
    CHECK(qp);
    CHECK(!srq || (qp->srq == srq && init.cap.max_recv_wr == 0));
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = ALL_ACCESS};
    CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS));
    return qp;
}

static void connect_uc(struct ibv_qp *qp, const struct address *peer)
{
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_RTR,
        .path_mtu = IBV_MTU_1024,
        .dest_qp_num = peer->qpn,
        .rq_psn = peer->psn,
        .ah_attr = {.is_global = 1, .port_num = 1, .grh = {.dgid = peer->gid, .sgid_index = GID_INDEX, .hop_limit = 64}},
    };
    CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN));
    attr = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTS, .sq_psn = address_of(qp).psn};
    CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_SQ_PSN));
}

static void post_srq(struct ibv_srq *srq, uint64_t wr_id, void *at, uint32_t len, uint32_t lkey)
{
    struct ibv_sge sge = {.addr = (uintptr_t)at, .length = len, .lkey = lkey};
    struct ibv_recv_wr wr = {.wr_id = wr_id, .sg_list = &sge, .num_sge = 1}, *bad;
    CHECK(!(errno = ibv_post_srq_recv(srq, &wr, &bad)));
}

static enum ibv_qp_state state_of(struct ibv_qp *qp)
{
    struct ibv_qp_attr attr;
    struct ibv_qp_init_attr init;
    CHECK(!ibv_query_qp(qp, &attr, IBV_QP_STATE, &init));
    return attr.qp_state;
}

/* The next asynchronous event within a second. */
static struct ibv_async_event next_event(struct ibv_context *ctx)
{
    struct pollfd fd = {.fd = ctx->async_fd, .events = POLLIN};
    struct ibv_async_event event;
    if (poll(&fd, 1, 1000) != 1)
        FAIL("no asynchronous event");
    CHECK(!ibv_get_async_event(ctx, &event));
    return event;
}

static void no_event(struct ibv_context *ctx)
{
    struct pollfd fd = {.fd = ctx->async_fd, .events = POLLIN};
    if (poll(&fd, 1, 50)) {
        struct ibv_async_event event;
        CHECK(!ibv_get_async_event(ctx, &event));
        FAIL("an event that should not be: %s", ibv_event_type_str(event.event_type));
    }
}

/* The limit event and the last-WQE event, once each; what nobody has read goes with its object. */
static void srq_events(void)
{
    struct node n = open_node(0);
    struct ibv_device_attr device;
    CHECK(!ibv_query_device(n.ctx, &device));
    CHECK(device.max_srq > 0 && device.max_srq_wr > 0 && device.max_srq_sge > 0);
    unsigned char *page = pages(PAGE);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, page, PAGE, ALL_ACCESS);
    struct ibv_srq_init_attr init = {.attr = {.max_wr = 10, .max_sge = 2}};
    struct ibv_srq *srq = ibv_create_srq(n.pd, &init);
    CHECK(mr && srq && init.attr.max_wr >= 10 && init.attr.max_sge >= 2);
    struct ibv_qp *a = new_qp(&n, IBV_QPT_RC, NULL), *b = new_qp(&n, IBV_QPT_RC, srq);
    struct address at_a = address_of(a), at_b = address_of(b);
    connect_qp(a, &at_b);
    connect_qp(b, &at_a);
    CHECK(ibv_destroy_srq(srq) == EBUSY);
    for (int i = 0; i < 10; i++)
        post_srq(srq, 100 + i, page + 1024, 64, mr->lkey);
    struct ibv_srq_attr attr = {.srq_limit = 7};
    CHECK(!ibv_modify_srq(srq, &attr, IBV_SRQ_LIMIT));
    CHECK(!ibv_query_srq(srq, &attr) && attr.srq_limit == 7 && attr.max_wr == init.attr.max_wr);
    int receives = 0, sends = 0;
    for (int i = 0; i < 4; i++) {
        if (i == 3)
            no_event(n.ctx);
        post_one_send(a, i, mr, page, 32);
        for (int k = 0; k < 2; k++) {
            struct ibv_wc wc;
            CHECK(poll_for(n.cq, &wc, 10) && wc.status == IBV_WC_SUCCESS);
            if (wc.opcode == IBV_WC_RECV) {
                CHECK(wc.wr_id == (uint64_t)(100 + receives++) && wc.qp_num == b->qp_num && wc.byte_len == 32);
            } else {
                CHECK(wc.wr_id == (uint64_t)sends++);
            }
        }
    }
    struct ibv_async_event event = next_event(n.ctx);
    CHECK(event.event_type == IBV_EVENT_SRQ_LIMIT_REACHED && event.element.srq == srq);
    ibv_ack_async_event(&event);
    CHECK(!ibv_query_srq(srq, &attr) && attr.srq_limit == 0);
    post_one_send(a, 9, mr, page, 32);
    CHECK(poll_for(n.cq, &(struct ibv_wc){0}, 10) && poll_for(n.cq, &(struct ibv_wc){0}, 10));
    no_event(n.ctx);
    /* Resize, with receives in it. */
    attr = (struct ibv_srq_attr){.max_wr = 4};
    CHECK(ibv_modify_srq(srq, &attr, IBV_SRQ_MAX_WR) == EINVAL);
    attr.max_wr = 1000;
    CHECK(!ibv_modify_srq(srq, &attr, IBV_SRQ_MAX_WR));
    CHECK(!ibv_query_srq(srq, &attr) && attr.max_wr >= 1000);
    /* The error state: no flush of what is in the SRQ, but the event. */
    struct ibv_qp_attr to_error = {.qp_state = IBV_QPS_ERR};
    CHECK(!ibv_modify_qp(b, &to_error, IBV_QP_STATE));
    event = next_event(n.ctx);
    CHECK(event.event_type == IBV_EVENT_QP_LAST_WQE_REACHED && event.element.qp == b);
    ibv_ack_async_event(&event);
    CHECK(!poll_for(n.cq, &(struct ibv_wc){0}, 0.05));
    CHECK(!ibv_destroy_qp(b));
    /* An event that nobody has read. */
    b = new_qp(&n, IBV_QPT_RC, srq);
    CHECK(!ibv_modify_qp(b, &to_error, IBV_QP_STATE));
    struct pollfd fd = {.fd = n.ctx->async_fd, .events = POLLIN};
    CHECK(poll(&fd, 1, 1000) == 1);
    CHECK(!ibv_destroy_qp(b));
    attr = (struct ibv_srq_attr){.srq_limit = 900};
    CHECK(!ibv_modify_srq(srq, &attr, IBV_SRQ_LIMIT));
    CHECK(poll(&fd, 1, 1000) == 1);
    CHECK(!ibv_destroy_srq(srq));
    no_event(n.ctx);
    CHECK(!ibv_destroy_qp(a) && !ibv_dereg_mr(mr));
    close_node(&n);
}

#define QPS 6
#define MESSAGES 400
#define LARGEST 20000

static uint32_t length_of(int qp, int i)
{
    return (uint32_t)((i * 2654435761u ^ (unsigned)qp * 40503u) % (i % 3 ? 200 : LARGEST)) + 1;
}

static void many_senders(int fd)
{
    struct node n = open_node(second);
    unsigned char *data = pages((LARGEST + PAGE) & ~(PAGE - 1));
    struct ibv_mr *mr = ibv_reg_mr(n.pd, data, LARGEST, ALL_ACCESS);
    CHECK(mr);
    struct ibv_qp *qp[QPS];
    for (int k = 0; k < QPS; k++) {
        struct address mine, peer;
        qp[k] = new_qp(&n, IBV_QPT_RC, NULL);
        mine = address_of(qp[k]);
        put(fd, &mine, sizeof mine);
        get(fd, &peer, sizeof peer);
        connect_qp(qp[k], &peer);
    }
    for (int i = 0; i < MESSAGES; i++) {
        fill(data, LARGEST, (unsigned)i);
        for (int k = 0; k < QPS; k++)
            post(qp[k], i, IBV_WR_SEND_WITH_IMM, data, length_of(k, i), mr->lkey, 0, 0);
        for (int k = 0; k < QPS; k++)
            expect(n.cq, i, IBV_WC_SUCCESS);
    }
    char c;
    get(fd, &c, 1);
}

/* Six QPs of another process share few receives, which the program posts late and asleep. */
static void srq_shared(void)
{
    pid_t pid;
    int fd = fork_peer(many_senders, &pid);
    struct node n = {.ctx = open_device(0)};
    struct ibv_comp_channel *channel = ibv_create_comp_channel(n.ctx);
    CHECK(channel);
    CHECK((n.pd = ibv_alloc_pd(n.ctx)) && (n.cq = ibv_create_cq(n.ctx, 256, NULL, channel, 0)));
    enum { DEPTH = 5, SLOT = 20480 };
    unsigned char *data = pages(DEPTH * SLOT);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, data, DEPTH * SLOT, ALL_ACCESS);
    struct ibv_srq_init_attr init = {.attr = {.max_wr = DEPTH, .max_sge = 1}};
    struct ibv_srq *srq = ibv_create_srq(n.pd, &init);
    CHECK(mr && srq);
    struct ibv_qp *qp[QPS];
    int next[QPS] = {0};
    for (int k = 0; k < QPS; k++) {
        struct address mine, peer;
        qp[k] = new_qp(&n, IBV_QPT_RC, srq);
        get(fd, &peer, sizeof peer);
        mine = address_of(qp[k]);
        connect_qp(qp[k], &peer);
        put(fd, &mine, sizeof mine);
    }
    for (int i = 0; i < DEPTH; i++)
        post_srq(srq, i, data + i * SLOT, LARGEST, mr->lkey);
    CHECK(!ibv_req_notify_cq(n.cq, 0));
    for (int got = 0; got < QPS * MESSAGES;) {
        struct ibv_wc wc;
        int m = ibv_poll_cq(n.cq, 1, &wc);
        CHECK(m >= 0);
        if (!m) {
            struct ibv_cq *cq;
            void *context;
            struct pollfd p = {.fd = channel->fd, .events = POLLIN};
            if (poll(&p, 1, 10000) != 1)
                FAIL("no completion event after %d messages", got);
            CHECK(!ibv_get_cq_event(channel, &cq, &context));
            ibv_ack_cq_events(cq, 1);
            CHECK(!ibv_req_notify_cq(n.cq, 0));
            continue;
        }
        int k = 0;
        while (k < QPS && qp[k]->qp_num != wc.qp_num)
            k++;
        CHECK(k < QPS && wc.status == IBV_WC_SUCCESS && wc.wr_id < DEPTH);
        int i = next[k]++;
        if (wc.byte_len != length_of(k, i) || ntohl(wc.imm_data) != (0xabcd0000u | (unsigned)i))
            FAIL("QP %d: message %d is out of order", k, i);
        CHECK(is_filled(data + wc.wr_id * SLOT, wc.byte_len, (unsigned)i));
        post_srq(srq, wc.wr_id, data + wc.wr_id * SLOT, LARGEST, mr->lkey);
        got++;
    }
    put(fd, "x", 1);
    reap(pid);
    for (int k = 0; k < QPS; k++)
        CHECK(!ibv_destroy_qp(qp[k]));
    CHECK(!ibv_destroy_srq(srq) && !ibv_dereg_mr(mr));
    close_node(&(struct node){n.ctx, n.pd, n.cq});
}

static void uc_peer(int fd)
{
    struct node n = open_node(second);
    unsigned char *page = pages(PAGE);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, page, PAGE, ALL_ACCESS);
    struct ibv_qp *qp = new_qp(&n, IBV_QPT_UC, NULL);
    struct address mine = address_of(qp), peer;
    put(fd, &mine, sizeof mine);
    get(fd, &peer, sizeof peer);
    connect_uc(qp, &peer);
    put(fd, "c", 1);
    for (;;) {
        char op;
        get(fd, &op, 1);
        struct ibv_wc wc;
        switch (op) {
        case 'r': /* post a receive */
            post_recv(qp, 7, page, 64, mr->lkey);
            break;
        case 'g': /* it must be taken by the last message */
            wc = expect(n.cq, 7, IBV_WC_SUCCESS);
            CHECK(wc.qp_num == qp->qp_num);
            break;
        case 'n': /* it must not be taken */
            CHECK(!poll_for(n.cq, &wc, 0.8));
            break;
        case 'x':
            CHECK(state_of(qp) == IBV_QPS_RTS);
            return;
        }
        put(fd, "k", 1);
    }
}

static void ask(int fd, char op)
{
    char answer;
    put(fd, &op, 1);
    get(fd, &answer, 1);
}

/* Without a receive a message is dropped and its sender is content; the next one arrives. */
static void uc_drop(void)
{
    pid_t pid;
    int fd = fork_peer(uc_peer, &pid);
    struct node n = open_node(0);
    unsigned char *page = pages(PAGE);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, page, PAGE, ALL_ACCESS);
    struct ibv_qp *qp = new_qp(&n, IBV_QPT_UC, NULL);
    struct address mine = address_of(qp), peer;
    get(fd, &peer, sizeof peer);
    connect_uc(qp, &peer);
    put(fd, &mine, sizeof mine);
    char c;
    get(fd, &c, 1);
    for (int i = 0; i < 5; i++) {
        post_one_send(qp, 1, mr, page, 32);
        expect(n.cq, 1, IBV_WC_SUCCESS);
    }
    ask(fd, 'n');
    ask(fd, 'r');
    ask(fd, 'n');
    post_one_send(qp, 2, mr, page, 32);
    expect(n.cq, 2, IBV_WC_SUCCESS);
    ask(fd, 'g');
    /* A key that does not exist over there. */
    post(qp, 3, IBV_WR_RDMA_WRITE, page, 32, mr->lkey, (uintptr_t)page, 0x123456);
    expect(n.cq, 3, IBV_WC_SUCCESS);
    ask(fd, 'r');
    post_one_send(qp, 4, mr, page, 32);
    expect(n.cq, 4, IBV_WC_SUCCESS);
    ask(fd, 'g');
    CHECK(state_of(qp) == IBV_QPS_RTS);
    put(fd, "x", 1);
    reap(pid);
    no_event(n.ctx);
    CHECK(!ibv_destroy_qp(qp) && !ibv_dereg_mr(mr));
    close_node(&n);
}

/* The peer is killed: nothing that is sent fails, and no event tells. */
static void uc_death(void)
{
    pid_t pid;
    int fd = fork_peer(uc_peer, &pid);
    struct node n = open_node(0);
    unsigned char *page = pages(64 * PAGE);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, page, 64 * PAGE, ALL_ACCESS);
    struct ibv_qp *qp = new_qp(&n, IBV_QPT_UC, NULL);
    struct address mine = address_of(qp), peer;
    get(fd, &peer, sizeof peer);
    connect_uc(qp, &peer);
    put(fd, &mine, sizeof mine);
    char c;
    get(fd, &c, 1);
    ask(fd, 'r');
    post_one_send(qp, 1, mr, page, 32);
    expect(n.cq, 1, IBV_WC_SUCCESS);
    ask(fd, 'g');
    post_recv(qp, 50, page, 64, mr->lkey);
    CHECK(!kill(pid, SIGKILL));
    CHECK(waitpid(pid, NULL, 0) == pid);
    double start = now();
    for (int i = 0; i < 1000; i++) {
        /* Now and then one that needs the peer's answer. */
        post_one_send(qp, i, mr, page, i % 100 == 50 ? 64 * PAGE : 32);
        struct ibv_wc wc;
        if (!poll_for(n.cq, &wc, 30))
            FAIL("send %d does not complete", i);
        CHECK(wc.wr_id == (uint64_t)i && wc.status == IBV_WC_SUCCESS);
    }
    if (now() - start > 30)
        FAIL("1000 sends to nobody took %.1f s", now() - start);
    CHECK(state_of(qp) == IBV_QPS_RTS);
    no_event(n.ctx);
    CHECK(!ibv_destroy_qp(qp) && !ibv_dereg_mr(mr));
    close_node(&n);
}

/* Domains, their objects, a second handle on a receive QP. */
static void xrc_objects(void)
{
    struct node n = open_node(0);
    struct ibv_device_attr device;
    CHECK(!ibv_query_device(n.ctx, &device) && (device.device_cap_flags & IBV_DEVICE_XRC));
    int file = open("/proc/self/exe", O_RDONLY);
    CHECK(file >= 0);
    struct ibv_xrcd_init_attr init = {
        .comp_mask = IBV_XRCD_INIT_ATTR_FD | IBV_XRCD_INIT_ATTR_OFLAGS, .fd = file, .oflags = 0};
    CHECK(!ibv_open_xrcd(n.ctx, &init) && errno == EAGAIN);
    init.oflags = O_CREAT;
    struct ibv_xrcd *one = ibv_open_xrcd(n.ctx, &init), *two = ibv_open_xrcd(n.ctx, &init);
    CHECK(one && two);
    init.oflags = O_CREAT | O_EXCL;
    CHECK(!ibv_open_xrcd(n.ctx, &init) && errno == EINVAL);
    struct ibv_srq_init_attr_ex srq_init = {
        .attr = {.max_wr = 4, .max_sge = 1},
        .comp_mask = IBV_SRQ_INIT_ATTR_TYPE | IBV_SRQ_INIT_ATTR_PD | IBV_SRQ_INIT_ATTR_XRCD | IBV_SRQ_INIT_ATTR_CQ,
        .srq_type = IBV_SRQT_XRC,
        .pd = n.pd,
        .xrcd = one,
        .cq = n.cq};
    struct ibv_srq *srq = ibv_create_srq_ex(n.ctx, &srq_init);
    uint32_t number = 0;
    CHECK(srq && !ibv_get_srq_num(srq, &number) && number && number < 1 << 24);
    struct ibv_qp_init_attr_ex qp_init = {
        .qp_type = IBV_QPT_XRC_RECV, .comp_mask = IBV_QP_INIT_ATTR_XRCD, .xrcd = two};
    struct ibv_qp *target = ibv_create_qp_ex(n.ctx, &qp_init);
    CHECK(target);
    struct ibv_qp_open_attr open_attr = {.comp_mask = IBV_QP_OPEN_ATTR_NUM | IBV_QP_OPEN_ATTR_XRCD | IBV_QP_OPEN_ATTR_TYPE,
                                         .qp_num = target->qp_num,
                                         .xrcd = one,
                                         .qp_type = IBV_QPT_XRC_RECV};
    struct ibv_qp *again = ibv_open_qp(n.ctx, &open_attr);
    CHECK(again && again->qp_num == target->qp_num);
    open_attr.qp_num ^= 1;
    CHECK(!ibv_open_qp(n.ctx, &open_attr) && errno == EOPNOTSUPP);
    CHECK(!ibv_close_xrcd(two) && ibv_close_xrcd(one) == EBUSY);
    CHECK(!ibv_destroy_qp(target) && state_of(again) == IBV_QPS_RESET && !ibv_destroy_qp(again));
    CHECK(ibv_destroy_cq(n.cq) == EBUSY);
    CHECK(!ibv_destroy_srq(srq) && !ibv_close_xrcd(one));
    close(file);
    close_node(&n);
}

static void expect_event(struct ibv_context *ctx, struct ibv_qp *qp, struct ibv_qp *other)
{
    unsigned seen = 0;
    for (int i = 0; i < 2; i++) {
        struct ibv_async_event event;
        CHECK(!ibv_get_async_event(ctx, &event));
        CHECK(event.event_type == IBV_EVENT_QP_FATAL || event.event_type == IBV_EVENT_QP_REQ_ERR);
        seen |= (event.element.qp == qp) | (event.element.qp == other) << 1;
        ibv_ack_async_event(&event);
    }
    CHECK(seen == 3);
}

/* Both handles on an XRC receive QP hear of its end. */
static void xrc_events(void)
{
    struct node n = open_node(0), m = open_node(second);
    struct ibv_xrcd_init_attr init = {.comp_mask = IBV_XRCD_INIT_ATTR_FD | IBV_XRCD_INIT_ATTR_OFLAGS, .fd = -1, .oflags = O_CREAT};
    struct ibv_xrcd *domain = ibv_open_xrcd(m.ctx, &init);
    CHECK(domain);
    struct ibv_qp_init_attr_ex target_init = {.qp_type = IBV_QPT_XRC_RECV, .comp_mask = IBV_QP_INIT_ATTR_XRCD, .xrcd = domain};
    struct ibv_qp_init_attr_ex sender_init = {.qp_type = IBV_QPT_XRC_SEND,
                                              .comp_mask = IBV_QP_INIT_ATTR_PD,
                                              .pd = n.pd,
                                              .send_cq = n.cq,
                                              .cap = {.max_send_wr = 4, .max_send_sge = 1}};
    struct ibv_qp *target = ibv_create_qp_ex(m.ctx, &target_init), *sender = ibv_create_qp_ex(n.ctx, &sender_init);
    CHECK(target && sender);
    struct ibv_qp_open_attr open_attr = {.comp_mask = IBV_QP_OPEN_ATTR_NUM | IBV_QP_OPEN_ATTR_XRCD | IBV_QP_OPEN_ATTR_TYPE,
                                         .qp_num = target->qp_num,
                                         .xrcd = domain,
                                         .qp_type = IBV_QPT_XRC_RECV};
    struct ibv_qp *again = ibv_open_qp(m.ctx, &open_attr);
    CHECK(again);
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = ALL_ACCESS};
    int mask = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;
    CHECK(!ibv_modify_qp(target, &attr, mask) && !ibv_modify_qp(sender, &attr, mask));
    struct address at_target = address_of(target), at_sender = address_of(sender);
    connect_qp(sender, &at_target);
    connect_qp(target, &at_sender);
    /* To an SRQ that there is not. */
    struct ibv_send_wr wr = {.wr_id = 5, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED, .qp_type.xrc.remote_srqn = 0x123456}, *bad;
    CHECK(!(errno = ibv_post_send(sender, &wr, &bad)));
    expect(n.cq, 5, IBV_WC_REM_INV_REQ_ERR);
    expect_event(m.ctx, target, again);
    CHECK(!ibv_destroy_qp(again) && !ibv_destroy_qp(target) && !ibv_destroy_qp(sender) && !ibv_close_xrcd(domain));
    close_node(&n);
    close_node(&m);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {{"srq-events", srq_events},
                 {"srq-shared", srq_shared},
                 {"uc-drop", uc_drop},
                 {"uc-death", uc_death},
                 {"xrc-objects", xrc_objects},
                 {"xrc-events", xrc_events}};
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3)
        for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
            if (!strcmp(argv[1], cases[i].name)) {
                what = argv[1];
                second = atoi(argv[2]);
                cases[i].run();
                return 0;
            }
    fprintf(stderr, "usage: srq_uc_xrc CASE SECOND_DEVICE\n");
    return 2;
}
