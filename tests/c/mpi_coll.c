// Every collective, blocking and not, over several types and sizes; each result is compared: mpirun -np N ./mpi_coll [largest]
#include "mpi_util.h"

static int later; // non-blocking
static MPI_Comm world;

// The blocking call, or its twin and a wait.
#define CALL(name, twin, ...)                                                                                                              \
    do {                                                                                                                                   \
        if (later) {                                                                                                                       \
            MPI_Request q;                                                                                                                 \
            MPI_##twin(__VA_ARGS__, &q);                                                                                                   \
            MPI_Wait(&q, MPI_STATUS_IGNORE);                                                                                               \
        } else {                                                                                                                           \
            MPI_##name(__VA_ARGS__);                                                                                                       \
        }                                                                                                                                  \
    } while (0)

static const char *title(const char *name)
{
    static char text[80];
    snprintf(text, sizeof text, "%s%s", later ? "non-blocking " : "", name);
    return text;
}

static long folded(MPI_Op op, int upto, size_t i)
{
    long v = value(0, i);
    for (int r = 1; r < upto; r++) {
        long w = value(r, i);
        v = op == MPI_SUM ? v + w : op == MPI_MAX ? (v > w ? v : w) : op == MPI_MIN ? (v < w ? v : w) : v ^ w;
    }
    return v;
}

static int is_folded(const struct kind *k, const void *at, size_t n, MPI_Op op, int upto, size_t from)
{
    int64_t one;
    for (size_t i = 0; i < n; i++) {
        set(k, &one, 0, folded(op, upto, from + i));
        if (memcmp(&one, (const char *)at + i * k->size, k->size))
            return 0;
    }
    return 1;
}

static void moving(const struct kind *k, size_t n)
{
    size_t s = k->size, bytes = n * s;
    char *mine = room(bytes), *many = room(bytes * ranks), *from = room(bytes * ranks);
    int root = (int)(n % ranks), right;

    if (rank == root)
        fill(k, mine, n, 70, 5);
    CALL(Bcast, Ibcast, mine, n, k->type, root, world);
    check(is(k, mine, n, 70, 5), title("bcast"), k->name, n);
    owed += rank == root ? 0 : bytes;

    fill(k, mine, n, rank, 0);
    CALL(Gather, Igather, mine, n, k->type, many, n, k->type, root, world);
    right = 1;
    for (int r = 0; r < ranks && rank == root; r++)
        right &= is(k, many + r * bytes, n, r, 0);
    check(right, title("gather"), k->name, n);
    owed += rank == root ? 0 : bytes;

    CALL(Allgather, Iallgather, mine, n, k->type, from, n, k->type, world);
    right = 1;
    for (int r = 0; r < ranks; r++)
        right &= is(k, from + r * bytes, n, r, 0);
    check(right, title("allgather"), k->name, n);
    owed += (double)bytes * (ranks - 1);

    memset(from, 0xa5, bytes * ranks);
    memcpy(from + rank * bytes, mine, bytes);
    CALL(Allgather, Iallgather, MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, from, n, k->type, world);
    right = 1;
    for (int r = 0; r < ranks; r++)
        right &= is(k, from + r * bytes, n, r, 0);
    check(right, title("allgather in place"), k->name, n);

    memset(mine, 0xa5, bytes);
    CALL(Scatter, Iscatter, from, n, k->type, mine, n, k->type, root, world);
    check(is(k, mine, n, rank, 0), title("scatter"), k->name, n);

    for (int r = 0; r < ranks; r++)
        fill(k, many + r * bytes, n, rank * 8 + r, 11);
    CALL(Alltoall, Ialltoall, many, n, k->type, from, n, k->type, world);
    right = 1;
    for (int r = 0; r < ranks; r++)
        right &= is(k, from + r * bytes, n, r * 8 + rank, 11);
    check(right, title("alltoall"), k->name, n);
    owed += (double)bytes * (ranks - 1);
    free(mine);
    free(many);
    free(from);
}

// Rank r has n + r elements at places with a gap of one element before each; gaps must stay as they were.
static void uneven(const struct kind *k, size_t n)
{
    size_t s = k->size, total = 0, out = 0;
    int counts[ranks], at[ranks], to[ranks], to_at[ranks], root = ranks - 1;
    for (int r = 0; r < ranks; r++) {
        counts[r] = n + r;
        at[r] = total + 1;
        total += counts[r] + 1;
        to[r] = n + rank;
        to_at[r] = out + 1;
        out += to[r] + 1;
    }
    char *mine = room((n + ranks) * s), *many = room(total * s), *other = room(out * s);
#define GAPS(buffer, places)                                                                                                               \
    do {                                                                                                                                   \
        for (int r = 0; r < ranks; r++)                                                                                                    \
            right &= untouched((buffer) + ((places)[r] - 1) * s, s);                                                                       \
    } while (0)
    int right = 1;
    fill(k, mine, n + rank, rank, 3);
    CALL(Gatherv, Igatherv, mine, n + rank, k->type, many, counts, at, k->type, root, world);
    for (int r = 0; r < ranks && rank == root; r++)
        right &= is(k, many + at[r] * s, counts[r], r, 3);
    GAPS(many, at);
    check(right, title("gatherv"), k->name, n);

    memset(many, 0xa5, total * s);
    right = 1;
    CALL(Allgatherv, Iallgatherv, mine, n + rank, k->type, many, counts, at, k->type, world);
    for (int r = 0; r < ranks; r++)
        right &= is(k, many + at[r] * s, counts[r], r, 3);
    GAPS(many, at);
    check(right, title("allgatherv"), k->name, n);

    memset(mine, 0xa5, (n + ranks) * s);
    CALL(Scatterv, Iscatterv, many, counts, at, k->type, mine, n + rank, k->type, root, world);
    check(is(k, mine, n + rank, rank, 3) && untouched(mine + (n + rank) * s, (ranks - rank) * s), title("scatterv"), k->name, n);

    // To rank r go as many as r has.
    for (int r = 0; r < ranks; r++)
        fill(k, many + at[r] * s, counts[r], rank * 8 + r, 2);
    right = 1;
    CALL(Alltoallv, Ialltoallv, many, counts, at, k->type, other, to, to_at, k->type, world);
    for (int r = 0; r < ranks; r++)
        right &= is(k, other + to_at[r] * s, to[r], r * 8 + rank, 2);
    GAPS(other, to_at);
    check(right, title("alltoallv"), k->name, n);

    // In bytes where the peer is odd.
    MPI_Datatype send[ranks], receive[ranks];
    int send_count[ranks], send_at[ranks], receive_count[ranks], receive_at[ranks];
    for (int r = 0; r < ranks; r++) {
        int odd = r % 2;
        send[r] = odd ? MPI_BYTE : k->type;
        receive[r] = odd ? MPI_BYTE : k->type;
        send_count[r] = odd ? counts[r] * (int)s : counts[r];
        receive_count[r] = odd ? to[r] * (int)s : to[r];
        send_at[r] = at[r] * s;
        receive_at[r] = to_at[r] * s;
    }
    memset(other, 0xa5, out * s);
    right = 1;
    CALL(Alltoallw, Ialltoallw, many, send_count, send_at, send, other, receive_count, receive_at, receive, world);
    for (int r = 0; r < ranks; r++)
        right &= is(k, other + to_at[r] * s, to[r], r * 8 + rank, 2);
    GAPS(other, to_at);
    check(right, title("alltoallw"), k->name, n);
    free(mine);
    free(many);
    free(other);
}

static void folding(const struct kind *k, size_t n)
{
    size_t bytes = n * k->size;
    char *mine = room(bytes * ranks), *got = room(bytes + k->size * ranks);
    MPI_Op ops[] = { MPI_SUM, MPI_MAX, MPI_MIN, MPI_BXOR };
    int root = ranks / 2;
    fill(k, mine, n * ranks, rank, 0);
    for (int o = 0; o < (k->real ? 3 : 4); o++) {
        MPI_Op op = ops[o];
        // Open MPI 4.1.4 saturates sums of bytes where it has AVX.
        if (k->size == 1 && op == MPI_SUM)
            continue;
        CALL(Reduce, Ireduce, mine, got, n, k->type, op, root, world);
        check(rank != root || is_folded(k, got, n, op, ranks, 0), title("reduce"), k->name, n);
        owed += rank == root ? 0 : bytes;
        CALL(Allreduce, Iallreduce, mine, got, n, k->type, op, world);
        check(is_folded(k, got, n, op, ranks, 0), title("allreduce"), k->name, n);
        owed += rank == root ? 0 : bytes;
        CALL(Scan, Iscan, mine, got, n, k->type, op, world);
        check(is_folded(k, got, n, op, rank + 1, 0), title("scan"), k->name, n);
        memset(got, 0xa5, bytes);
        CALL(Exscan, Iexscan, mine, got, n, k->type, op, world);
        check(rank == 0 || is_folded(k, got, n, op, rank, 0), title("exscan"), k->name, n);
        CALL(Reduce_scatter_block, Ireduce_scatter_block, mine, got, n, k->type, op, world);
        check(is_folded(k, got, n, op, ranks, rank * n), title("reduce_scatter_block"), k->name, n);
        // The first rank gets one less, the last one more.
        int counts[ranks];
        for (int r = 0; r < ranks; r++)
            counts[r] = n - (r == 0) + (r == ranks - 1);
        size_t from = rank * n - (rank > 0);
        memset(got, 0xa5, bytes);
        CALL(Reduce_scatter, Ireduce_scatter, mine, got, counts, k->type, op, world);
        check(is_folded(k, got, counts[rank], op, ranks, from), title("reduce_scatter"), k->name, n);
    }
    memcpy(got, mine, bytes);
    CALL(Allreduce, Iallreduce, MPI_IN_PLACE, got, n, k->type, MPI_MIN, world);
    check(is_folded(k, got, n, MPI_MIN, ranks, 0), title("allreduce in place"), k->name, n);
    free(mine);
    free(got);
}

// x -> a x + b, of which the order matters.
struct affine {
    int64_t a, b;
};
enum { PRIME = 10007 };

static void compose(void *in, void *inout, int *n, MPI_Datatype *type)
{
    struct affine *f = in, *g = inout;
    (void)type;
    for (int i = 0; i < *n; i++) {
        struct affine h = { f[i].a * g[i].a % PRIME, (f[i].a * g[i].b + f[i].b) % PRIME };
        g[i] = h;
    }
}

static void in_order(int n)
{
    MPI_Datatype type;
    MPI_Op op;
    MPI_Type_contiguous(2, MPI_INT64_T, &type);
    MPI_Type_commit(&type);
    MPI_Op_create(compose, 0, &op);
    struct affine *mine = room(n * sizeof *mine), *got = room(n * sizeof *got), *want = room(n * sizeof *want);
    for (int upto = 1; upto <= ranks; upto++) {
        for (int i = 0; i < n; i++) {
            want[i] = (struct affine){ (upto - 1) * 3 + 2, i + upto - 1 };
            mine[i] = (struct affine){ rank * 3 + 2, i + rank };
        }
        for (int r = upto - 2; r >= 0; r--)
            for (int i = 0; i < n; i++) {
                struct affine f = { r * 3 + 2, i + r };
                int one = 1;
                compose(&f, want + i, &one, 0);
            }
        if (upto == rank + 1) {
            memcpy(got, want, n * sizeof *want);
        }
    }
    struct affine *mine_upto = room(n * sizeof *mine);
    CALL(Scan, Iscan, mine, mine_upto, n, type, op, world);
    check(!memcmp(mine_upto, got, n * sizeof *got), title("scan, order matters"), "pairs", n);
    CALL(Allreduce, Iallreduce, mine, mine_upto, n, type, op, world);
    check(!memcmp(mine_upto, want, n * sizeof *want), title("allreduce, order matters"), "pairs", n);
    CALL(Reduce, Ireduce, mine, mine_upto, n, type, op, 0, world);
    check(rank || !memcmp(mine_upto, want, n * sizeof *want), title("reduce, order matters"), "pairs", n);
    free(mine);
    free(got);
    free(want);
    free(mine_upto);
    MPI_Op_free(&op);
    MPI_Type_free(&type);
}

// Each rank sends to the next one or two and hears from the one or two before it.
static void neighbours(const struct kind *k, size_t n)
{
    int degree = ranks > 2 ? 2 : 1, sources[2], targets[2], ones[2] = { 1, 1 };
    for (int d = 0; d < degree; d++) {
        targets[d] = (rank + d + 1) % ranks;
        sources[d] = (rank + ranks - d - 1) % ranks;
    }
    MPI_Comm graph;
    MPI_Dist_graph_create_adjacent(world, degree, sources, ones, degree, targets, ones, MPI_INFO_NULL, 0, &graph);
    size_t s = k->size, most = n + ranks;
    char *mine = room(2 * most * s), *got = room(2 * most * s);
    int right = 1;
    fill(k, mine, n, rank, 1);
    CALL(Neighbor_allgather, Ineighbor_allgather, mine, n, k->type, got, n, k->type, graph);
    for (int d = 0; d < degree; d++)
        right &= is(k, got + d * n * s, n, sources[d], 1);
    check(right, title("neighbor_allgather"), k->name, n);
    owed += (double)degree * n * s;

    int counts[2], at[2] = { 0, (int)most }, out[2];
    for (int d = 0; d < degree; d++) {
        counts[d] = n + sources[d];
        out[d] = n + rank;
    }
    fill(k, mine, n + rank, rank, 1);
    right = 1;
    CALL(Neighbor_allgatherv, Ineighbor_allgatherv, mine, n + rank, k->type, got, counts, at, k->type, graph);
    for (int d = 0; d < degree; d++)
        right &= is(k, got + at[d] * s, counts[d], sources[d], 1);
    check(right, title("neighbor_allgatherv"), k->name, n);

    for (int d = 0; d < degree; d++)
        fill(k, mine + d * n * s, n, rank * 8 + targets[d], 4);
    right = 1;
    CALL(Neighbor_alltoall, Ineighbor_alltoall, mine, n, k->type, got, n, k->type, graph);
    for (int d = 0; d < degree; d++)
        right &= is(k, got + d * n * s, n, sources[d] * 8 + rank, 4);
    check(right, title("neighbor_alltoall"), k->name, n);

    for (int d = 0; d < degree; d++)
        fill(k, mine + at[d] * s, n + rank, rank * 8 + targets[d], 6);
    right = 1;
    CALL(Neighbor_alltoallv, Ineighbor_alltoallv, mine, out, at, k->type, got, counts, at, k->type, graph);
    for (int d = 0; d < degree; d++)
        right &= is(k, got + at[d] * s, counts[d], sources[d] * 8 + rank, 6);
    check(right, title("neighbor_alltoallv"), k->name, n);

    MPI_Datatype types[2] = { k->type, k->type };
    MPI_Aint places[2] = { 0, (MPI_Aint)(most * s) };
    memset(got, 0xa5, 2 * most * s);
    right = 1;
    CALL(Neighbor_alltoallw, Ineighbor_alltoallw, mine, out, places, types, got, counts, places, types, graph);
    for (int d = 0; d < degree; d++)
        right &= is(k, got + places[d], counts[d], sources[d] * 8 + rank, 6);
    check(right, title("neighbor_alltoallw"), k->name, n);
    free(mine);
    free(got);
    MPI_Comm_free(&graph);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

// Nobody leaves a barrier before the last one has come.
static void barrier(void)
{
    for (int late = 0; late < ranks; late++) {
        if (rank == late)
            usleep(20000);
        double came = seconds(), last, left, first;
        CALL(Barrier, Ibarrier, world);
        left = seconds();
        MPI_Allreduce(&came, &last, 1, MPI_DOUBLE, MPI_MAX, world);
        MPI_Allreduce(&left, &first, 1, MPI_DOUBLE, MPI_MIN, world);
        check(first >= last, title("barrier"), "rank", late);
    }
}

// Several at once, on one communicator.
static void together(int n)
{
    int *a = room(n * 4), *b = room(n * 4), *c = room(n * 4), *d = room(n * 4 * ranks), *e = room(n * 4 * ranks);
    MPI_Request q[4];
    const struct kind *k = &kinds[1];
    fill(k, a, n, rank, 0);
    if (rank == 0)
        fill(k, c, n, 50, 0);
    for (int r = 0; r < ranks; r++)
        fill(k, d + r * n, n, rank * 8 + r, 0);
    MPI_Iallreduce(a, b, n, MPI_INT32_T, MPI_SUM, world, &q[0]);
    MPI_Ibcast(c, n, MPI_INT32_T, 0, world, &q[1]);
    MPI_Ialltoall(d, n, MPI_INT32_T, e, n, MPI_INT32_T, world, &q[2]);
    MPI_Ibarrier(world, &q[3]);
    MPI_Waitall(4, q, MPI_STATUSES_IGNORE);
    int right = is_folded(k, b, n, MPI_SUM, ranks, 0) && is(k, c, n, 50, 0);
    for (int r = 0; r < ranks; r++)
        right &= is(k, e + r * n, n, r * 8 + rank, 0);
    check(right, "four collectives at once", k->name, n);
    free(a);
    free(b);
    free(c);
    free(d);
    free(e);
}

int main(int argc, char **argv)
{
    begin(&argc, &argv);
    size_t most = argc > 1 ? strtoul(argv[1], 0, 0) : 1 << 18;
    size_t sizes[] = { 1, 33, 1000, 20000, 1 << 18 };
    MPI_Comm_dup(MPI_COMM_WORLD, &world);
    for (later = 0; later < 2; later++) {
        barrier();
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes && sizes[i] <= most; i++) {
            in_order(sizes[i] > 1000 ? 1000 : sizes[i]);
            for (int k = 0; k < KINDS; k++) {
                // The largest only in two types.
                if (sizes[i] > 20000 && k != 1 && k != 4)
                    continue;
                moving(&kinds[k], sizes[i]);
                uneven(&kinds[k], sizes[i]);
                folding(&kinds[k], sizes[i]);
                neighbours(&kinds[k], sizes[i]);
            }
        }
        together(1000);
        together(50000);
    }
    MPI_Comm_free(&world);
    return end("collectives");
}
