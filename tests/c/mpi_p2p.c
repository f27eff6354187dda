// Messages: ping-pong up to 16 MiB, many at once, wildcards, probes, persistent requests, layouts: mpirun -np N ./mpi_p2p
#include "mpi_util.h"

static const struct kind *byte;

// Even ranks with the odd rank above them; every byte is compared on both sides.
static void ping_pong(size_t n, int rounds)
{
    int peer = rank ^ 1;
    if (peer >= ranks)
        return;
    char *out = room(n), *in = room(n + 1), *want = room(n);
    MPI_Status st;
    int right = 1, count;
    for (int i = 0; i < rounds; i++) {
        fill(byte, out, n, rank, i);
        fill(byte, want, n, peer, i);
        memset(in, 0xa5, n + 1);
        if (rank % 2 == 0)
            MPI_Send(out, n, MPI_BYTE, peer, i, MPI_COMM_WORLD);
        MPI_Recv(in, n + 1, MPI_BYTE, peer, i, MPI_COMM_WORLD, &st);
        if (rank % 2)
            MPI_Send(out, n, MPI_BYTE, peer, i, MPI_COMM_WORLD);
        MPI_Get_count(&st, MPI_BYTE, &count);
        right &= !memcmp(in, want, n) && in[n] == (char)0xa5 && (size_t)count == n && st.MPI_SOURCE == peer && st.MPI_TAG == i;
    }
    check(right, "ping-pong", "byte", n);
    owed += (double)n * rounds;
    free(out);
    free(in);
    free(want);
}

// Everybody to everybody at once, in all modes, received in the opposite order of tags.
static void crowd(size_t n)
{
    enum { TAGS = 12 };
    int total = (ranks - 1) * TAGS, q = 0, right = 1;
    char *out = room(total * n), *in = room(total * n), *want = room(n);
    MPI_Request *rq = room(2 * total * sizeof *rq);
    for (int r = 0, slot = 0; r < ranks; r++)
        for (int t = TAGS - 1; t >= 0 && r != rank; t--, slot++)
            if (t % 4)
                MPI_Irecv(in + slot * n, n, MPI_BYTE, r, t, MPI_COMM_WORLD, &rq[q++]);
    for (int r = 0, slot = 0; r < ranks; r++)
        for (int t = 0; t < TAGS && r != rank; t++, slot++) {
            fill(byte, out + slot * n, n, rank * 8 + r, t);
            if (t % 3 == 1)
                MPI_Issend(out + slot * n, n, MPI_BYTE, r, t, MPI_COMM_WORLD, &rq[q++]);
            else
                MPI_Isend(out + slot * n, n, MPI_BYTE, r, t, MPI_COMM_WORLD, &rq[q++]);
        }
    // A quarter is not expected when it comes.
    usleep(2000);
    for (int r = 0, slot = 0; r < ranks; r++)
        for (int t = TAGS - 1; t >= 0 && r != rank; t--, slot++)
            if (t % 4 == 0)
                MPI_Irecv(in + slot * n, n, MPI_BYTE, r, t, MPI_COMM_WORLD, &rq[q++]);
    MPI_Waitall(q, rq, MPI_STATUSES_IGNORE);
    for (int r = 0, slot = 0; r < ranks; r++)
        for (int t = TAGS - 1; t >= 0 && r != rank; t--, slot++) {
            fill(byte, want, n, r * 8 + rank, t);
            right &= !memcmp(in + slot * n, want, n);
        }
    check(right, "many at once", "byte", n);
    owed += (double)total * n;
    free(out);
    free(in);
    free(want);
    free(rq);
}

// All send to rank 0, which knows neither who, nor how much.
static void wildcards(void)
{
    enum { EACH = 20 };
    if (rank) {
        for (int i = 0; i < EACH; i++) {
            size_t n = (size_t)1 << i % 18;
            char *out = room(n);
            fill(byte, out, n, rank, i);
            MPI_Send(out, n, MPI_BYTE, 0, i, MPI_COMM_WORLD);
            owed += n;
            free(out);
        }
        return;
    }
    int next[ranks], right = 1;
    memset(next, 0, sizeof next);
    for (int i = 0; i < EACH * (ranks - 1); i++) {
        MPI_Status st, got;
        MPI_Message m;
        int count;
        if (i % 2)
            MPI_Probe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &st);
        else
            MPI_Mprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &m, &st);
        MPI_Get_count(&st, MPI_BYTE, &count);
        char *in = room(count), *want = room(count);
        if (i % 2)
            MPI_Recv(in, count, MPI_BYTE, st.MPI_SOURCE, st.MPI_TAG, MPI_COMM_WORLD, &got);
        else
            MPI_Mrecv(in, count, MPI_BYTE, &m, &got);
        fill(byte, want, count, st.MPI_SOURCE, st.MPI_TAG);
        // Nobody overtakes himself.
        int in_turn = st.MPI_TAG == next[st.MPI_SOURCE]++, whole = count == 1 << st.MPI_TAG % 18, same = !memcmp(in, want, count);
        if (!in_turn || !whole || !same)
            fprintf(stderr, "message %d: from %d, tag %d (turn of %d), %d bytes, data %s\n", i, st.MPI_SOURCE, st.MPI_TAG,
                    next[st.MPI_SOURCE] - 1, count, same ? "right" : "wrong");
        right &= in_turn && whole && same;
        free(in);
        free(want);
    }
    check(right, "wildcards and probes", "messages", EACH);
}

// Every third element of a row of structures, both ways around the ring, by persistent requests.
static void layouts(int n)
{
    int next = (rank + 1) % ranks, last = (rank + ranks - 1) % ranks, right = 1;
    struct pair {
        double x;
        int i;
    } *out = room(3 * n * sizeof *out), *in = room(3 * n * sizeof *in);
    MPI_Datatype fields, pair, row;
    int lengths[2] = { 1, 1 };
    MPI_Aint at[2] = { 0, 8 };
    MPI_Datatype types[2] = { MPI_DOUBLE, MPI_INT };
    MPI_Type_create_struct(2, lengths, at, types, &fields);
    MPI_Type_create_resized(fields, 0, sizeof *out, &pair);
    MPI_Type_vector(n, 1, 3, pair, &row);
    MPI_Type_commit(&row);
    MPI_Request q[2];
    MPI_Send_init(out, 1, row, next, 3, MPI_COMM_WORLD, &q[0]);
    MPI_Recv_init(in, 1, row, last, 3, MPI_COMM_WORLD, &q[1]);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < n; i++)
            out[3 * i] = (struct pair){ .x = rank + i + round, .i = rank * 7 + i };
        MPI_Startall(2, q);
        MPI_Waitall(2, q, MPI_STATUSES_IGNORE);
        for (int i = 0; i < n; i++)
            right &= in[3 * i].x == last + i + round && in[3 * i].i == last * 7 + i && (i == 0 || untouched(&in[3 * i - 2], 32));
        MPI_Barrier(MPI_COMM_WORLD);
    }
    check(right, "layouts", "structures", n);
    owed += 3.0 * 12 * n;
    MPI_Request_free(&q[0]);
    MPI_Request_free(&q[1]);
    MPI_Type_free(&row);
    MPI_Type_free(&pair);
    MPI_Type_free(&fields);
    free(out);
    free(in);
}

// Large ones in both directions at the same time.
static void crossing(size_t n)
{
    int next = (rank + 1) % ranks, last = (rank + ranks - 1) % ranks;
    char *out = room(n), *in = room(n), *want = room(n);
    fill(byte, out, n, rank, 0);
    fill(byte, want, n, last, 0);
    MPI_Sendrecv(out, n, MPI_BYTE, next, 1, in, n, MPI_BYTE, last, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    check(!memcmp(in, want, n), "both ways", "byte", n);
    owed += n;
    free(out);
    free(in);
    free(want);
}

int main(int argc, char **argv)
{
    begin(&argc, &argv);
    size_t most = argc > 1 ? strtoul(argv[1], 0, 0) : 16 << 20;
    byte = &kinds[0];
    ping_pong(0, 5);
    for (size_t n = 1; n <= most; n *= 4) {
        ping_pong(n, n > 1 << 20 ? 2 : 10);
        ping_pong(n + 1, 2);
    }
    size_t sizes[] = { 0, 8, 1000, 5000, 20000, 300000 };
    for (int i = 0; i < 6; i++)
        crowd(sizes[i]);
    MPI_Barrier(MPI_COMM_WORLD);
    wildcards();
    // What comes next must not be taken by a wildcard.
    MPI_Barrier(MPI_COMM_WORLD);
    layouts(10);
    layouts(30000);
    crossing(100000);
    crossing(most);
    return end("messages");
}
