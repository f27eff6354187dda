/* Lists and opens devices through the installed libibverbs. The tree under SYSFS_PATH has a device; the character device
 * and an absent kernel module are pretended here, where the library's calls end up first. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *real(const char *path)
{
	return strncmp(path, "/dev/infiniband/", 16) ? path : "/dev/null";
}

int stat(const char *path, struct stat *st)
{
	return fstatat(AT_FDCWD, real(path), st, 0);
}

int open(const char *path, int flags, ...)
{
	va_list args;
	int mode;

	va_start(args, flags);
	mode = va_arg(args, int);
	va_end(args);
	return syscall(SYS_openat, AT_FDCWD, real(path), flags, mode);
}

int socket(int domain, int type, int protocol)
{
	if (domain == AF_NETLINK && protocol == 20) {
		errno = EPROTONOSUPPORT;
		return -1;
	}
	return syscall(SYS_socket, domain, type, protocol);
}

static int next_fd(void)
{
	int fd = dup(0);

	close(fd);
	return fd;
}

int main(void)
{
	int n = 0, before;
	struct ibv_device **list = ibv_get_device_list(&n);
	struct ibv_context *context;

	if (!list)
		return perror("ibv_get_device_list"), 1;
	for (int i = 0; i < n; i++) {
		before = next_fd();
		errno = 0;
		context = ibv_open_device(list[i]);
		printf("%s open=%d errno=%d leaked=%d\n", ibv_get_device_name(list[i]), !!context, errno, next_fd() - before);
	}
	ibv_free_device_list(list);
	return 0;
}
