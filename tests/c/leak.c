/* Opens, uses and closes everything many times; counts what the process holds before and after.
 *
 * Usage: leak CYCLES. At the end it prints "closed" and sleeps, so that the fabric can be looked at from outside. */
#include "util.h"
#include <sys/resource.h>
#include <dirent.h>

struct counts {
    int descriptors, memfds, maps, threads;
};

static struct counts count(void)
{
    struct counts c = {0};
    DIR *dir = opendir("/proc/self/fd");
    CHECK(dir);
    for (struct dirent *e; (e = readdir(dir));) {
        char path[300], target[300] = "";
        snprintf(path, sizeof path, "/proc/self/fd/%s", e->d_name);
        if (readlink(path, target, sizeof target - 1) > 0) {
            c.descriptors++;
            c.memfds += !strncmp(target, "/memfd:", 7);
        }
    }
    closedir(dir);
    FILE *f = fopen("/proc/self/maps", "r");
    CHECK(f);
    for (int ch; (ch = getc(f)) != EOF;)
        c.maps += ch == '\n';
    fclose(f);
    CHECK(dir = opendir("/proc/self/task"));
    for (struct dirent *e; (e = readdir(dir));)
        c.threads += e->d_name[0] != '.';
    closedir(dir);
    return c;
}

static void cycle(int i)
{
    struct node n = open_node(0);
    struct ibv_comp_channel *channel = ibv_create_comp_channel(n.ctx);
    CHECK(channel);
    struct ibv_cq *extra = ibv_create_cq(n.ctx, 64, NULL, channel, 0);
    CHECK(extra && !ibv_req_notify_cq(extra, 0));
    unsigned char *buffer = malloc(64 * PAGE);
    struct ibv_mr *mr = ibv_reg_mr(n.pd, buffer, 64 * PAGE, ALL_ACCESS);
    CHECK(mr);
    struct ibv_qp *a = make_qp(&n, ALL_ACCESS), *b = make_qp(&n, ALL_ACCESS);
    struct address at_a = address_of(a), at_b = address_of(b);
    struct ibv_ah_attr ah_attr = {.is_global = 1, .port_num = 1, .grh = {.dgid = at_b.gid, .sgid_index = GID_INDEX}};
    struct ibv_ah *ah = ibv_create_ah(n.pd, &ah_attr);
    CHECK(ah);
    connect_qp(a, &at_b);
    connect_qp(b, &at_a);
    fill(buffer, 32 * PAGE, i);
    post_recv(b, 1, buffer + 32 * PAGE, 32 * PAGE, mr->lkey);
    post_one_send(a, 2, mr, buffer, 32 * PAGE);
    for (int got = 0; got < 2;) {
        struct ibv_wc wc;
        if (!poll_for(n.cq, &wc, 10))
            FAIL("cycle %d: no completion", i);
        CHECK(wc.status == IBV_WC_SUCCESS);
        got++;
    }
    CHECK(is_filled(buffer + 32 * PAGE, 32 * PAGE, i));
    CHECK(!ibv_destroy_ah(ah));
    CHECK(!ibv_destroy_qp(a) && !ibv_destroy_qp(b));
    CHECK(!ibv_dereg_mr(mr));
    CHECK(!ibv_destroy_cq(extra) && !ibv_destroy_comp_channel(channel));
    close_node(&n);
    free(buffer);
}

/* Opens that fail at every possible point for want of descriptors, and the first that succeeds. */
static void failing_opens(void)
{
    struct rlimit old, low;
    CHECK(!getrlimit(RLIMIT_NOFILE, &old));
    struct ibv_device **list = ibv_get_device_list(NULL);
    CHECK(list && list[0]);
    ibv_close_device(ibv_open_device(list[0]));
    struct counts before = count();
    struct ibv_context *ctx = NULL;
    for (int more = 0; !ctx; more++) {
        if (more > 100)
            FAIL("no open succeeds");
        low = old;
        low.rlim_cur = before.descriptors + more;
        CHECK(!setrlimit(RLIMIT_NOFILE, &low));
        ctx = ibv_open_device(list[0]);
        CHECK(!setrlimit(RLIMIT_NOFILE, &old));
        if (!ctx) {
            struct counts after = count();
            if (after.descriptors != before.descriptors || after.memfds != before.memfds || after.maps > before.maps + 1)
                FAIL("an open that failed with %d more descriptors left %d descriptors and %d mappings", more,
                     after.descriptors - before.descriptors, after.maps - before.maps);
        }
    }
    CHECK(!ibv_close_device(ctx));
    ibv_free_device_list(list);
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "failing-opens")) {
        what = argv[1];
        failing_opens();
        return 0;
    }
    int cycles = argc > 1 ? atoi(argv[1]) : 200;
    what = "leak";
    for (int i = 0; i < 20; i++)
        cycle(i);
    struct counts before = count();
    for (int i = 0; i < cycles; i++)
        cycle(i);
    struct counts after = count();
    printf("descriptors %d %d\nmemfds %d %d\nmaps %d %d\nthreads %d %d\nclosed\n", before.descriptors, after.descriptors, before.memfds,
           after.memfds, before.maps, after.maps, before.threads, after.threads);
    fflush(stdout);
    pause();
    return 0;
}
