// One-sided: every operation, under every kind of synchronization, in windows of every kind: mpirun -np N ./mpi_rma
#include "mpi_util.h"

enum { SPAN = 1 << 17 }; // elements of a window
enum how { FENCE, PSCW, LOCK, LOCK_ALL };
static const char *const how_names[] = { "fence", "post-start-complete-wait", "lock", "lock_all" };

static MPI_Win win;
static MPI_Aint base[64]; // what displacement 0 is at each rank: its address in dynamic windows
static int unit;          // bytes per displacement
static MPI_Group everyone;
static char text[120];
static const char *window;

static const char *title(const char *what, enum how how)
{
    snprintf(text, sizeof text, "%s (%s, %s)", what, window, how_names[how]);
    return text;
}

static MPI_Aint at(int target, const struct kind *k, size_t element)
{
    return base[target] + (MPI_Aint)(element * k->size) / unit;
}

// An epoch in which this rank reaches `target` (-1: all).
static void open_epoch(enum how how, int target, int shared)
{
    switch (how) {
    case FENCE:
        MPI_Win_fence(0, win);
        break;
    case PSCW:
        MPI_Win_post(everyone, 0, win);
        MPI_Win_start(everyone, 0, win);
        break;
    case LOCK:
        for (int r = 0; r < ranks; r++)
            if (target < 0 || r == target)
                MPI_Win_lock(shared ? MPI_LOCK_SHARED : MPI_LOCK_EXCLUSIVE, r, 0, win);
        break;
    case LOCK_ALL:
        MPI_Win_lock_all(0, win);
        break;
    }
}

// Ends it, and waits until everybody has ended his.
static void close_epoch(enum how how, int target)
{
    switch (how) {
    case FENCE:
        MPI_Win_fence(0, win);
        break;
    case PSCW:
        MPI_Win_complete(win);
        MPI_Win_wait(win);
        break;
    case LOCK:
        for (int r = 0; r < ranks; r++)
            if (target < 0 || r == target)
                MPI_Win_unlock(r, win);
        break;
    case LOCK_ALL:
        MPI_Win_flush_all(win);
        MPI_Win_unlock_all(win);
        break;
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

// Local changes of the window between epochs are seen by everybody afterwards.
static void local(char *mem, size_t bytes, int byte)
{
    MPI_Win_lock(MPI_LOCK_EXCLUSIVE, rank, 0, win);
    memset(mem, byte, bytes);
    MPI_Win_unlock(rank, win);
    MPI_Barrier(MPI_COMM_WORLD);
}

// Each rank puts into the next one and gets from it what the one before had put there.
static void put_get(char *mem, const struct kind *k, size_t n, enum how how)
{
    int next = (rank + 1) % ranks, last = (rank + ranks - 1) % ranks;
    size_t bytes = n * k->size;
    char *mine = room(bytes), *got = room(bytes);
    local(mem, bytes + 16, 0xa5);
    fill(k, mine, n, rank, 1);
    open_epoch(how, next, 0);
    MPI_Put(mine, n, k->type, next, at(next, k, 0), n, k->type, win);
    close_epoch(how, next);
    check(is(k, mem, n, last, 1) && untouched(mem + bytes, 16), title("put", how), k->name, n);
    open_epoch(how, next, 1);
    MPI_Get(got, n, k->type, next, at(next, k, 0), n, k->type, win);
    close_epoch(how, next);
    check(is(k, got, n, rank, 1), title("get", how), k->name, n);
    owed += 2.0 * bytes;
    free(mine);
    free(got);
}

// Everybody accumulates into everybody.
static void accumulate(char *mem, const struct kind *k, size_t n, enum how how)
{
    size_t bytes = n * k->size;
    char *mine = room(bytes), *want = room(bytes);
    local(mem, bytes + 16, 0);
    fill(k, mine, n, rank, 2);
    open_epoch(how, -1, 1);
    for (int r = 0; r < ranks; r++)
        MPI_Accumulate(mine, n, k->type, r, at(r, k, 0), n, k->type, MPI_SUM, win);
    close_epoch(how, -1);
    for (size_t i = 0; i < n; i++) {
        long sum = 0;
        for (int r = 0; r < ranks; r++)
            sum += value(r, i + 2);
        set(k, want, i, sum);
    }
    check(!memcmp(mem, want, bytes) && !mem[bytes], title("accumulate", how), k->name, n);
    owed += (double)bytes * (ranks - 1);

    MPI_Barrier(MPI_COMM_WORLD);
    local(mem, bytes, 0);
    open_epoch(how, -1, 1);
    for (int r = 0; r < ranks; r++)
        MPI_Accumulate(mine, n, k->type, r, at(r, k, 0), n, k->type, MPI_MAX, win);
    close_epoch(how, -1);
    for (size_t i = 0; i < n; i++) {
        long most = 0;
        for (int r = 0; r < ranks; r++)
            most = most > value(r, i + 2) ? most : value(r, i + 2);
        set(k, want, i, most);
    }
    check(!memcmp(mem, want, bytes), title("accumulate MAX", how), k->name, n);
    free(mine);
    free(want);
}

// One writer per target, so that what comes back is known: the old value, whatever the operation.
static void get_accumulate(char *mem, const struct kind *k, size_t n, enum how how)
{
    int next = (rank + 1) % ranks, last = (rank + ranks - 1) % ranks;
    size_t bytes = n * k->size;
    char *mine = room(bytes), *got = room(bytes), *want = room(bytes);
    MPI_Win_lock(MPI_LOCK_EXCLUSIVE, rank, 0, win);
    fill(k, mem, n, rank, 3);
    MPI_Win_unlock(rank, win);
    MPI_Barrier(MPI_COMM_WORLD);
    fill(k, mine, n, rank, 4);
    open_epoch(how, next, 0);
    MPI_Get_accumulate(mine, n, k->type, got, n, k->type, next, at(next, k, 0), n, k->type, MPI_SUM, win);
    close_epoch(how, next);
    check(is(k, got, n, next, 3), title("get_accumulate, what was there", how), k->name, n);
    for (size_t i = 0; i < n; i++)
        set(k, want, i, value(rank, i + 3) + value(last, i + 4));
    check(!memcmp(mem, want, bytes), title("get_accumulate, what is there", how), k->name, n);
    MPI_Barrier(MPI_COMM_WORLD);
    open_epoch(how, next, 0);
    MPI_Get_accumulate(0, 0, k->type, got, n, k->type, next, at(next, k, 0), n, k->type, MPI_NO_OP, win);
    close_epoch(how, next);
    for (size_t i = 0; i < n; i++)
        set(k, want, i, value(next, i + 3) + value(rank, i + 4));
    check(!memcmp(got, want, bytes), title("get_accumulate NO_OP", how), k->name, n);
    open_epoch(how, next, 0);
    MPI_Accumulate(mine, n, k->type, next, at(next, k, 0), n, k->type, MPI_REPLACE, win);
    close_epoch(how, next);
    check(is(k, mem, n, last, 4), title("accumulate REPLACE", how), k->name, n);
    owed += 3.0 * bytes;
    MPI_Barrier(MPI_COMM_WORLD);
    free(mine);
    free(got);
    free(want);
}

// Counters of everybody's at rank 0: each old value is seen once. Then a lock made of compare and swap.
static void atomics(char *mem, const struct kind *k, enum how how)
{
    enum { ROUNDS = 20, TURNS = 2 };
    int64_t zero = 0, one = 0, mine = 0, old = 0, free_ = 0, taken = 0;
    char *seen = room(ROUNDS * ranks);
    int *all = room(ROUNDS * ranks * sizeof *all), right = 1;
    int drawn[ROUNDS];
    memset(seen, 0, ROUNDS * ranks);
    local(mem, 64, 0);
    set(k, &one, 0, 1);
    for (int i = 0; i < ROUNDS; i++) {
        if (how == LOCK)
            MPI_Win_lock(MPI_LOCK_SHARED, 0, 0, win);
        else if (i == 0)
            MPI_Win_lock_all(0, win);
        MPI_Fetch_and_op(&one, &old, k->type, 0, at(0, k, 0), MPI_SUM, win);
        if (how == LOCK)
            MPI_Win_unlock(0, win);
        else
            MPI_Win_flush(0, win);
        drawn[i] = k->size == 8 ? old : (int32_t)old;
    }
    if (how == LOCK_ALL)
        MPI_Win_unlock_all(win);
    MPI_Gather(drawn, ROUNDS, MPI_INT, all, ROUNDS, MPI_INT, 0, MPI_COMM_WORLD);
    for (int i = 0; i < ROUNDS * ranks && rank == 0; i++)
        if (all[i] < 0 || all[i] >= ROUNDS * ranks || seen[all[i]]++)
            right = 0;
    check(right, title("fetch_and_op", how), k->name, 1);

    // Everybody adds one under the lock, by get and put: without mutual exclusion some would be lost.
    local(mem, 64, 0);
    set(k, &taken, 0, rank + 1);
    MPI_Win_lock_all(0, win);
    for (int i = 0; i < TURNS; i++) {
        do {
            old = 0;
            MPI_Compare_and_swap(&taken, &free_, &old, k->type, 0, at(0, k, 2), win);
            MPI_Win_flush(0, win);
            // Who waits serves the others meanwhile.
            int any;
            MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &any, MPI_STATUS_IGNORE);
        } while (old);
        MPI_Get(&mine, 1, k->type, 0, at(0, k, 4), 1, k->type, win);
        MPI_Win_flush(0, win);
        set(k, &mine, 0, (k->size == 8 ? mine : (int32_t)mine) + 1);
        MPI_Put(&mine, 1, k->type, 0, at(0, k, 4), 1, k->type, win);
        MPI_Win_flush(0, win);
        old = 0;
        MPI_Compare_and_swap(&zero, &taken, &old, k->type, 0, at(0, k, 2), win);
        MPI_Win_flush(0, win);
        check(!memcmp(&old, &taken, k->size), title("compare_and_swap of the holder", how), k->name, 1);
    }
    MPI_Win_unlock_all(win);
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0) {
        MPI_Win_lock(MPI_LOCK_SHARED, 0, 0, win);
        set(k, &mine, 0, TURNS * ranks);
        check(!memcmp(mem + 4 * k->size, &mine, k->size), title("compare_and_swap as a lock", how), k->name, 1);
        MPI_Win_unlock(0, win);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    free(seen);
    free(all);
}

// A column of a matrix, and the operations that have a request.
static void strided_and_requests(char *mem)
{
    enum { ROWS = 40, COLUMNS = 7 };
    const struct kind *k = &kinds[4];
    int next = (rank + 1) % ranks, last = (rank + ranks - 1) % ranks, right = 1;
    double *m = (double *)mem, mine[ROWS], got[ROWS];
    MPI_Datatype column;
    MPI_Request q[2];
    MPI_Type_vector(ROWS, 1, COLUMNS, MPI_DOUBLE, &column);
    MPI_Type_commit(&column);
    local(mem, ROWS * COLUMNS * 8, 0);
    fill(k, mine, ROWS, rank, 0);
    open_epoch(LOCK_ALL, -1, 1);
    MPI_Rput(mine, ROWS, MPI_DOUBLE, next, at(next, k, 3), 1, column, win, &q[0]);
    MPI_Wait(&q[0], MPI_STATUS_IGNORE);
    MPI_Win_flush(next, win);
    MPI_Rget(got, ROWS, MPI_DOUBLE, next, at(next, k, 3), 1, column, win, &q[1]);
    MPI_Wait(&q[1], MPI_STATUS_IGNORE);
    int early = is(k, got, ROWS, rank, 0);
    MPI_Win_flush(next, win);
    if (!early && is(k, got, ROWS, rank, 0))
        fprintf(stderr, "rank %d: the column was there only after a flush\n", rank);
    check(is(k, got, ROWS, rank, 0), title("rget of a column", LOCK_ALL), k->name, ROWS);
    close_epoch(LOCK_ALL, -1);
    for (int i = 0; i < ROWS * COLUMNS; i++)
        right &= m[i] == (i % COLUMNS == 3 ? value(last, i / COLUMNS) : 0);
    check(right, title("rput of a column", LOCK_ALL), k->name, ROWS);
    MPI_Barrier(MPI_COMM_WORLD);
    open_epoch(LOCK_ALL, -1, 1);
    MPI_Raccumulate(mine, ROWS, MPI_DOUBLE, next, at(next, k, 0), ROWS, MPI_DOUBLE, MPI_REPLACE, win, &q[0]);
    MPI_Wait(&q[0], MPI_STATUS_IGNORE);
    MPI_Win_flush(next, win);
    MPI_Rget_accumulate(mine, ROWS, MPI_DOUBLE, got, ROWS, MPI_DOUBLE, next, at(next, k, 0), ROWS, MPI_DOUBLE, MPI_SUM, win, &q[1]);
    MPI_Wait(&q[1], MPI_STATUS_IGNORE);
    check(is(k, got, ROWS, rank, 0), title("rget_accumulate", LOCK_ALL), k->name, ROWS);
    close_epoch(LOCK_ALL, -1);
    right = 1;
    for (int i = 0; i < ROWS; i++)
        right &= m[i] == 2 * value(last, i);
    check(right, title("raccumulate", LOCK_ALL), k->name, ROWS);
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Type_free(&column);
}

static void operations(char *mem)
{
    double start = MPI_Wtime();
    size_t sizes[] = { 1, 100, 5000, 1 << 17 };
    for (int how = FENCE; how <= LOCK_ALL; how++)
        for (int s = 0; s < 4; s++)
            for (int k = 1; k < KINDS; k++) {
                if (sizes[s] > 5000 && (k != 2 || how == PSCW))
                    continue;
                if (getenv("VERBOSE") && rank == 0)
                    fprintf(stderr, "%s %s %zu %s: %.1f s\n", window, how_names[how], sizes[s], kinds[k].name, MPI_Wtime() - start);
                put_get(mem, &kinds[k], sizes[s], how);
                // Element by element in these programs: not the largest.
                if (sizes[s] <= 5000 && (k == 2 || k == 4 || sizes[s] == 100)) {
                    accumulate(mem, &kinds[k], sizes[s], how);
                    get_accumulate(mem, &kinds[k], sizes[s], how);
                }
            }
    strided_and_requests(mem);
    for (int how = LOCK; how <= LOCK_ALL; how++)
        for (int k = 1; k <= 2; k++) {
            atomics(mem, &kinds[k], how);
            if (getenv("VERBOSE") && rank == 0)
                fprintf(stderr, "%s atomics %s %s: %.1f s\n", window, how_names[how], kinds[k].name, MPI_Wtime() - start);
        }
}

int main(int argc, char **argv)
{
    begin(&argc, &argv);
    MPI_Comm_group(MPI_COMM_WORLD, &everyone);
    char *mem;
    const char *only = argc > 1 ? argv[1] : "";

    window = "win_allocate";
    unit = 1;
    if (strstr(window, only)) {
        MPI_Win_allocate(SPAN * 8 + 64, unit, MPI_INFO_NULL, MPI_COMM_WORLD, &mem, &win);
        operations(mem);
        MPI_Win_free(&win);
    }
    window = "win_create";
    unit = 4;
    if (strstr(window, only)) {
        mem = room(SPAN * 8 + 64);
        MPI_Win_create(mem, SPAN * 8 + 64, unit, MPI_INFO_NULL, MPI_COMM_WORLD, &win);
        operations(mem);
        MPI_Win_free(&win);
        free(mem);
    }
    window = "win_create_dynamic";
    unit = 1;
    if (strstr(window, only)) {
        mem = room(SPAN * 8 + 64);
        MPI_Win_create_dynamic(MPI_INFO_NULL, MPI_COMM_WORLD, &win);
        MPI_Win_attach(win, mem, SPAN * 8 + 64);
        MPI_Aint mine;
        MPI_Get_address(mem, &mine);
        MPI_Allgather(&mine, 1, MPI_AINT, base, 1, MPI_AINT, MPI_COMM_WORLD);
        operations(mem);
        MPI_Barrier(MPI_COMM_WORLD);
        MPI_Win_detach(win, mem);
        MPI_Win_free(&win);
        free(mem);
    }
    MPI_Group_free(&everyone);
    return end("one-sided");
}
