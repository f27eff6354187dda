/* A receiver that takes its last message and ends at once with _exit(0): its sender never sees an error (hazard 4).
 *
 * Usage: last_exit COUNT SECOND_DEVICE. One sender; each receiver is a process of its own. Two receivers are being prepared
 * while one is used, because starting one takes longer than the test itself. */
#include "util.h"

#define AHEAD 2
#define SIZE_LARGE 20000

static int second;

static void receiver(int fd)
{
    struct node n = open_node(second);
    unsigned char *buffer = pages(SIZE_LARGE);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, buffer, SIZE_LARGE, IBV_ACCESS_LOCAL_WRITE);
    struct ibv_qp *qp = make_qp(&n, IBV_ACCESS_LOCAL_WRITE);
    struct address me = address_of(qp), peer;
    post_recv(qp, 1, buffer, SIZE_LARGE, mr->lkey);
    put(fd, &me, sizeof me);
    get(fd, &peer, sizeof peer);
    connect_qp(qp, &peer);
    put(fd, "r", 1);
    struct ibv_wc wc;
    do {
        if (ibv_poll_cq(n.cq, 1, &wc) > 0)
            _exit(wc.status == IBV_WC_SUCCESS && is_filled(buffer, wc.byte_len, wc.byte_len) ? 0 : 3);
    } while (1);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: last_exit COUNT SECOND_DEVICE\n");
        return 2;
    }
    long count = atol(argv[1]);
    second = atoi(argv[2]);
    signal(SIGPIPE, SIG_IGN);
    what = "last message";

    /* A process that never opens a device makes the receivers, so that none of them inherits one. */
    int requests[2], errors = 0;
    CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, requests));
    pid_t starter = fork();
    CHECK(starter >= 0);
    if (!starter) {
        signal(SIGCHLD, SIG_DFL);
        for (long i = 0; i < count; i++) {
            char c;
            if (recv(requests[1], &c, 1, 0) != 1)
                break;
            pid_t pid;
            int fd = fork_peer(receiver, &pid);
            struct iovec iov = {&pid, sizeof pid};
            union {
                struct cmsghdr align;
                char space[CMSG_SPACE(sizeof(int))];
            } control;
            struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
            struct cmsghdr *h = CMSG_FIRSTHDR(&msg);
            *h = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
            memcpy(CMSG_DATA(h), &fd, sizeof fd);
            CHECK(sendmsg(requests[1], &msg, 0) == sizeof pid);
            close(fd);
            int status;
            while (waitpid(-1, &status, WNOHANG) > 0)
                if (status) {
                    fprintf(stderr, "a receiver ended with status 0x%x\n", status);
                    errors++;
                }
        }
        int status;
        while (waitpid(-1, &status, 0) > 0)
            if (status) {
                fprintf(stderr, "a receiver ended with status 0x%x\n", status);
                errors++;
            }
        _exit(errors != 0);
    }
    close(requests[1]);

    struct node n = open_node(0);
    unsigned char *buffer = pages(SIZE_LARGE);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, buffer, SIZE_LARGE, IBV_ACCESS_LOCAL_WRITE);
    for (long i = 0; i < AHEAD && i < count; i++)
        put(requests[0], "n", 1);
    static const uint32_t sizes[] = {0, 8, 40, 1000, SIZE_LARGE};
    double start = now();
    for (long i = 0; i < count; i++) {
        pid_t pid = 0;
        struct iovec iov = {&pid, sizeof pid};
        union {
            struct cmsghdr align;
            char space[CMSG_SPACE(sizeof(int))];
        } control;
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        int fd;
        CHECK(recvmsg(requests[0], &msg, MSG_CMSG_CLOEXEC) == sizeof pid);
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof fd);
        if (i + AHEAD < count)
            put(requests[0], "n", 1);

        struct ibv_qp *qp = make_qp(&n, IBV_ACCESS_LOCAL_WRITE);
        struct address me = address_of(qp), peer;
        char c;
        get(fd, &peer, sizeof peer);
        put(fd, &me, sizeof me);
        connect_qp(qp, &peer);
        get(fd, &c, 1);
        uint32_t len = sizes[i % 5];
        fill(buffer, len, len);
        post_one_send(qp, i, mr, buffer, len);
        struct ibv_wc wc;
        if (!poll_for(n.cq, &wc, 20))
            FAIL("number %ld (%u bytes to process %d): no completion within 20 s", i, len, pid);
        if (wc.status != IBV_WC_SUCCESS) {
            fprintf(stderr, "number %ld (%u bytes to process %d): %s (vendor %u)\n", i, len, pid, ibv_wc_status_str(wc.status), wc.vendor_err);
            if (++errors > 10)
                FAIL("too many");
        }
        CHECK(!ibv_destroy_qp(qp));
        close(fd);
    }
    double took = now() - start;
    CHECK(!ibv_dereg_mr(mr));
    close_node(&n);
    close(requests[0]);
    reap(starter);
    printf("%ld receivers, %d errors, %.2f ms each\n", count, errors, took / count * 1e3);
    return errors != 0;
}
