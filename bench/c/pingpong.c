// Ping-pong of two ranks. For each size of the command line, written size*iterations: size, median of one way in microseconds.
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    int rank;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (int i = 1; i < argc; i++) {
        size_t size = 0;
        int n = 0;
        if (sscanf(argv[i], "%zu*%d", &size, &n) != 2 || n < 1)
            MPI_Abort(MPI_COMM_WORLD, 2);
        char *buffer = malloc(size + 1);
        double *times = malloc(n * sizeof *times);
        memset(buffer, 1, size + 1);
        int warm = n / 10 + 2;
        for (int k = -warm; k < n; k++) {
            double start = MPI_Wtime();
            if (rank == 0)
                MPI_Send(buffer, size, MPI_BYTE, 1, 0, MPI_COMM_WORLD);
            MPI_Recv(buffer, size, MPI_BYTE, 1 - rank, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            if (rank == 1)
                MPI_Send(buffer, size, MPI_BYTE, 0, 0, MPI_COMM_WORLD);
            if (k >= 0)
                times[k] = (MPI_Wtime() - start) / 2 * 1e6;
        }
        qsort(times, n, sizeof *times, by_value);
        if (rank == 0)
            printf("pingpong %zu %.4f\n", size, times[n / 2]);
        free(buffer);
        free(times);
    }
    MPI_Finalize();
    return 0;
}
