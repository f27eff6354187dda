// What the MPI programs share: element types, patterns, the device's own counters.
#include <mpi.h>
// MPICH says MPI_STATUSES_IGNORE with an array of no elements.
#pragma GCC diagnostic ignored "-Wstringop-overflow"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int rank, ranks, bad;
static double owed; // bytes of this rank's that the network must have carried, at least

static void check(int right, const char *what, const char *type, size_t count)
{
    if (right)
        return;
    if (bad++ < 20)
        fprintf(stderr, "rank %d of %d: %s of %zu %s is wrong\n", rank, ranks, what, count, type);
}

struct kind {
    MPI_Datatype type;
    size_t size;
    const char *name;
    int real;
};

enum { KINDS = 5 };
static struct kind kinds[KINDS];

static void set(const struct kind *k, void *at, size_t i, long v)
{
    if (k->real && k->size == 8)
        ((double *)at)[i] = v;
    else if (k->real)
        ((float *)at)[i] = v;
    else if (k->size == 8)
        ((int64_t *)at)[i] = v;
    else if (k->size == 4)
        ((int32_t *)at)[i] = v;
    else
        ((uint8_t *)at)[i] = v;
}

// Small, so that sums are exact in every type and every order; integers wrap in what they are compared with, too.
static long value(int r, size_t i)
{
    return (r * 13 + i * 7 + (i >> 8) * 3) % 97;
}

static void fill(const struct kind *k, void *at, size_t n, int r, size_t from)
{
    for (size_t i = 0; i < n; i++)
        set(k, (char *)at, i, value(r, from + i));
}

__attribute__((unused)) static int is(const struct kind *k, const void *at, size_t n, int r, size_t from)
{
    int64_t one;
    for (size_t i = 0; i < n; i++) {
        set(k, &one, 0, value(r, from + i));
        if (memcmp(&one, (const char *)at + i * k->size, k->size))
            return 0;
    }
    return 1;
}

__attribute__((unused)) static int untouched(const void *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (((const uint8_t *)at)[i] != 0xa5)
            return 0;
    return 1;
}

static void *room(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    if (!p)
        abort();
    return memset(p, 0xa5, bytes);
}

// Port counters count words of four octets (IBTA Vol. 1, 16.1.3.5).
static double sent_by_device(void)
{
    const char *dev = getenv("COUNTED_DEVICE");
    char path[200];
    unsigned long long words = 0;
    snprintf(path, sizeof path, "/sys/class/infiniband/%s/ports/1/counters/port_xmit_data", dev ? dev : "hbl_0");
    FILE *f = fopen(path, "r");
    if (!f)
        return -1;
    if (fscanf(f, "%llu", &words) != 1)
        words = 0;
    fclose(f);
    return words * 4.0;
}

static double before;

static void begin(int *argc, char ***argv)
{
    MPI_Init(argc, argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    struct kind all[KINDS] = {
        { MPI_UNSIGNED_CHAR, 1, "byte", 0 }, { MPI_INT32_T, 4, "int", 0 },      { MPI_INT64_T, 8, "long", 0 },
        { MPI_FLOAT, 4, "float", 1 },        { MPI_DOUBLE, 8, "double", 1 },
    };
    memcpy(kinds, all, sizeof kinds);
    before = sent_by_device();
    MPI_Barrier(MPI_COMM_WORLD);
}

// Rank 0 says what was found, and whether the bytes went through the device. NO_DEVICE: a run over something else, for comparison.
static int end(const char *what)
{
    int wrong = 0;
    double all = 0;
    MPI_Allreduce(&bad, &wrong, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Allreduce(&owed, &all, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0) {
        double moved = sent_by_device() - before;
        printf("%s: %d ranks, %d wrong\n", what, ranks, wrong);
        printf("%s: the device sent %.0f bytes, the program %.0f\n", what, moved, all);
        if (!getenv("NO_DEVICE") && (before < 0 || moved < all)) {
            printf("%s: bytes did not go through the device\n", what);
            wrong++;
        }
        fflush(stdout);
    }
    MPI_Bcast(&wrong, 1, MPI_INT, 0, MPI_COMM_WORLD);
    MPI_Finalize();
    return wrong != 0;
}
