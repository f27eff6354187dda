// Collectives and one-sided operations, each of which checks what it gets: mpirun -np N ./mpi
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static int rank, ranks, bad;

static void check(int right, const char *what, size_t count)
{
    if (!right) {
        bad++;
        fprintf(stderr, "rank %d of %d: %s of %zu\n", rank, ranks, what, count);
    }
}

static int all(const int *v, size_t n, int first, int step)
{
    for (size_t i = 0; i < n; i++)
        if (v[i] != first + (int)i * step)
            return 0;
    return 1;
}

static void collectives(size_t n)
{
    int *mine = malloc(n * sizeof *mine), *got = malloc(n * sizeof *got);
    int *many = malloc(n * ranks * sizeof *many), *from = malloc(n * ranks * sizeof *from);
    int sum = ranks * (ranks - 1) / 2;
#define FILL for (size_t i = 0; i < n; i++) mine[i] = rank + (int)i
    FILL;
    MPI_Allreduce(mine, got, n, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    check(all(got, n, sum, ranks), "allreduce", n);
    MPI_Reduce(mine, got, n, MPI_INT, MPI_MAX, ranks - 1, MPI_COMM_WORLD);
    check(rank != ranks - 1 || all(got, n, ranks - 1, 1), "reduce", n);
    MPI_Scan(mine, got, n, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    check(all(got, n, rank * (rank + 1) / 2, rank + 1), "scan", n);
    MPI_Bcast(mine, n, MPI_INT, 0, MPI_COMM_WORLD);
    check(all(mine, n, 0, 1), "bcast", n);
    FILL;
    MPI_Allgather(mine, n, MPI_INT, many, n, MPI_INT, MPI_COMM_WORLD);
    for (int r = 0; r < ranks; r++)
        check(all(many + r * n, n, r, 1), "allgather", n);
    MPI_Gather(mine, n, MPI_INT, from, n, MPI_INT, 0, MPI_COMM_WORLD);
    for (int r = 0; r < ranks && rank == 0; r++)
        check(all(from + r * n, n, r, 1), "gather", n);
    MPI_Scatter(many, n, MPI_INT, got, n, MPI_INT, ranks - 1, MPI_COMM_WORLD);
    check(all(got, n, rank, 1), "scatter", n);
    for (int r = 0; r < ranks; r++)
        for (size_t i = 0; i < n; i++)
            many[r * n + i] = rank * 1000 + r + (int)i;
    MPI_Alltoall(many, n, MPI_INT, from, n, MPI_INT, MPI_COMM_WORLD);
    for (int r = 0; r < ranks; r++)
        check(all(from + r * n, n, r * 1000 + rank, 1), "alltoall", n);
    MPI_Reduce_scatter_block(many, got, n, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    check(all(got, n, sum * 1000 + rank * ranks, ranks), "reduce_scatter", n);
    // Around the ring, both ways at once.
    int to = (rank + 1) % ranks, back = (rank + ranks - 1) % ranks;
    MPI_Sendrecv(mine, n, MPI_INT, to, 5, got, n, MPI_INT, back, 5, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    check(all(got, n, back, 1), "sendrecv", n);
    free(mine);
    free(got);
    free(many);
    free(from);
}

static void one_sided(void)
{
    enum { ROUNDS = 100, BULK = 100000 };
    long *mem, value = rank + 100, one = 1, old, counter = 0;
    MPI_Win w;
    MPI_Win_allocate((ranks + 1 + BULK) * sizeof *mem, sizeof *mem, MPI_INFO_NULL, MPI_COMM_WORLD, &mem, &w);
    for (int i = 0; i < ranks + 1 + BULK; i++)
        mem[i] = 0;
    MPI_Win_fence(0, w);
    for (int r = 0; r < ranks; r++)
        MPI_Put(&value, 1, MPI_LONG, r, rank, 1, MPI_LONG, w);
    MPI_Win_fence(0, w);
    for (int r = 0; r < ranks; r++)
        check(mem[r] == r + 100, "put", 1);
    MPI_Win_fence(0, w);
    MPI_Win_lock_all(0, w);
    for (int i = 0; i < ROUNDS; i++) {
        MPI_Fetch_and_op(&one, &old, MPI_LONG, 0, ranks, MPI_SUM, w);
        MPI_Win_flush(0, w);
    }
    MPI_Win_unlock_all(w);
    MPI_Barrier(MPI_COMM_WORLD);
    long *bulk = malloc(BULK * sizeof *bulk);
    for (int i = 0; i < BULK; i++)
        bulk[i] = rank * 7 + i;
    int to = (rank + 1) % ranks, back = (rank + ranks - 1) % ranks;
    MPI_Win_fence(0, w);
    MPI_Get(&counter, 1, MPI_LONG, 0, ranks, 1, MPI_LONG, w);
    MPI_Put(bulk, BULK, MPI_LONG, to, ranks + 1, BULK, MPI_LONG, w);
    MPI_Win_fence(0, w);
    check(counter == (long)ROUNDS * ranks, "fetch_and_op", 1);
    int right = 1;
    for (int i = 0; i < BULK; i++)
        right &= mem[ranks + 1 + i] == back * 7 + i;
    check(right, "put", BULK);
    MPI_Win_fence(0, w);
    for (int i = 0; i < BULK; i++)
        bulk[i] = 0;
    MPI_Win_fence(0, w);
    MPI_Get(bulk, BULK, MPI_LONG, to, ranks + 1, BULK, MPI_LONG, w);
    MPI_Win_fence(0, w);
    right = 1;
    for (int i = 0; i < BULK; i++)
        right &= bulk[i] == rank * 7 + i;
    check(right, "get", BULK);
    MPI_Accumulate(&one, 1, MPI_LONG, 0, 0, 1, MPI_LONG, MPI_SUM, w);
    MPI_Win_fence(0, w);
    check(rank != 0 || mem[0] == 100 + ranks, "accumulate", 1);
    free(bulk);
    MPI_Win_free(&w);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    size_t sizes[] = { 1, 33, 1000, 10000, 100000, 1 << 18 };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        collectives(sizes[i]);
    one_sided();
    int wrong = 0;
    MPI_Allreduce(&bad, &wrong, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (rank == 0)
        printf("%d ranks, %d wrong\n", ranks, wrong);
    MPI_Finalize();
    return wrong != 0;
}
