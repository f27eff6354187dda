/* refuse PROGRAM [ARGUMENT ...]: runs a program as old container engines do, with process_vm_readv(2), process_vm_writev(2) and
 * ptrace(2) refused by seccomp (EPERM). */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define IF_EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, value)

int main(int argc, char **argv)
{
	struct sock_filter rules[] = {
		LOAD(nr),
		IF_EQUAL(SYS_process_vm_readv, 3, 0),
		IF_EQUAL(SYS_process_vm_writev, 2, 0),
		IF_EQUAL(SYS_ptrace, 1, 0),
		RETURN(SECCOMP_RET_ALLOW),
		RETURN(SECCOMP_RET_ERRNO | EPERM),
	};
	struct sock_fprog filter = { .len = sizeof rules / sizeof *rules, .filter = rules };

	if (argc < 2) {
		fprintf(stderr, "usage: refuse PROGRAM [ARGUMENT ...]\n");
		return 2;
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) {
		perror("seccomp");
		return 3;
	}
	execvp(argv[1], argv + 1);
	perror(argv[1]);
	return 127;
}
