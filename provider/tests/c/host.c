/* host PROVIDER IBDEV_PATH LIBRARY.. : loads the libraries (doubles), then the provider, and says what happened to each. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct driver {
	const char *name;
	uint32_t min, max;
	const void *table, *static_providers;
	bool (*match_device)(void *sysfs);
	void *(*alloc_context)(void *device, int fd, void *private_data);
	void *import_context;
	void *(*alloc_device)(void *sysfs);
	void (*uninit_device)(void *device);
};

static char sysfs[992];

static void *named(const char *name, const char *path)
{
	memset(sysfs, 0, sizeof(sysfs));
	strcpy(sysfs + 112, name);
	strcpy(sysfs + 176, path);
	return sysfs;
}

int main(int argc, char **argv)
{
	void *libraries[16];

	for (int i = 3; i < argc; i++) {
		libraries[i] = dlopen(argv[i], RTLD_NOW | RTLD_LOCAL);
		if (!libraries[i])
			return fprintf(stderr, "%s\n", dlerror()), 1;
	}
	for (int twice = 0; twice < 2; twice++)
		if (!dlopen(argv[1], RTLD_NOW))
			return fprintf(stderr, "%s\n", dlerror()), 1;
	for (int i = 3; i < argc; i++) {
		int (*registered)(void) = (int (*)(void))dlsym(libraries[i], "double_registered");
		int (*released)(void) = (int (*)(void))dlsym(libraries[i], "double_released");
		const struct driver *(*driver)(void) = (const struct driver *(*)(void))dlsym(libraries[i], "double_driver");
		const struct driver *d = driver();
		int fd = open("/dev/null", O_RDWR);
		void *device, *context;

		printf("registered=%d", registered());
		if (d) {
			printf(" name=%s abi=%u..%u", d->name, d->min, d->max);
			printf(" hbl_3=%d", d->match_device(named("hbl_3", "/nonexistent")));
			printf(" vendor=%d", d->match_device(named("hbl_3", argv[2])));
			printf(" mlx5_0=%d", d->match_device(named("mlx5_0", "/nonexistent")));
			device = d->alloc_device(named("hbl_4095", "/nonexistent"));
			*(const struct driver **)((char *)device + 664) = d;
			printf(" core_support=%d", *(int *)((char *)device + 704));
			errno = 0;
			context = d->alloc_context(device, fd, NULL);
			printf(" context=%d errno=%d", !!context, errno);
			printf(" released=%d closed=%d", released(), fcntl(fd, F_GETFD) == -1);
			d->uninit_device(device);
		}
		printf("\n");
	}
	return 0;
}
